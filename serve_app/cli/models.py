"""`model-runtime models …`: what there is, and load, unload, pin, unpin, plan. For people, or JSON for programs."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from deployments.contract.status import AdminResult, ModelStatus, Plan, Residence, Verb
from serve_app.cli import connection
from serve_app.client.client import ModelRuntimeClient

MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("verb", nargs="?", type=Verb, choices=list(Verb), help="for one model; none lists them all")
    parser.add_argument("model", nargs="?", help="its id, or id@version")
    parser.add_argument("--json", action="store_true")
    connection.add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int | None:
    """Returns 2 where a verb has no model."""
    if (options.verb is None) != (options.model is None):
        print(f"usage: model-runtime models [{'|'.join(Verb)} MODEL]", file=sys.stderr)
        return 2
    with connection.connect(options) as client:
        if options.verb is None:
            statuses = client.models()
            print(_json(statuses) if options.json else table([_row(status) for status in statuses]))
            return None
        told = _ask(client, options.verb, options.model)
    if options.json:
        print(_json(told))
    elif isinstance(told, ModelStatus):
        print(_shown(told))
    else:
        print(table([_plan(plan) for plan in told]))
    return None


def _ask(client: ModelRuntimeClient, verb: Verb, model: str) -> AdminResult:
    match verb:
        case Verb.SHOW:
            return client.model(model)
        case Verb.LOAD:
            return client.load(model)
        case Verb.UNLOAD:
            return client.unload(model)
        case Verb.PIN | Verb.UNPIN:
            return client.pin(model, verb is Verb.PIN)
        case Verb.PLAN:
            return client.plan(model)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the last one as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def _row(status: ModelStatus) -> list[str]:
    size = max(status.resident_bytes, default=status.declared_bytes)
    remark = "pinned" if status.pinned else ""
    if status.reason:
        remark = f"{remark}, {status.reason}".removeprefix(", ")
    return [status.model_id, _version(status), status.family or "–", status.state, _mib(size), remark]


def _version(status: ModelStatus) -> str:
    return "–" if status.version is None else f"{status.version} of {','.join(map(str, status.versions))}"


def _shown(status: ModelStatus) -> str:
    facts = [
        ("model", status.model_id),
        ("family", status.family or "–"),
        ("version", _version(status)),
        ("state", status.state + (", pinned" if status.pinned else "")),
        ("reason", status.reason or ""),
        ("declared", _mib(status.declared_bytes)),
        ("loads", str(status.loads)),
        ("evictions", str(status.evictions)),
        ("last use", _ago(status.last_use)),
        *(("note", note) for note in status.notes),
        *((f"refused {name}", reason) for name, reason in status.refused.items()),
        *(("replica", _replica(there)) for there in status.replicas),
    ]
    return table([fact for fact in facts if fact[1]])


def _replica(there: Residence) -> str:
    version = f"version {there.version}, " if there.version is not None else ""
    process, unload = there.process, there.last_unload
    gave_back = (
        f"its last unload, of {_mib(unload.bytes)}, took the process from {_mib(unload.process_bytes_before)} to "
        f"{_mib(unload.process_bytes_after)}; "
        if unload
        else ""
    )
    return (
        f"{there.replica}: {version}{there.state}, {_mib(there.bytes)}, {there.loads} loads "
        f"(the last in {there.load_s:.2f} s), {there.evictions} evictions, {there.leases} requests; {gave_back}"
        f"all its models {_mib(process.accounted_bytes)} of {_mib(process.budget_bytes)}, "
        f"its process {_mib(process.process_bytes)}, {_mib(process.resting_bytes)} at rest, "
        f"{_mib(process.leaked_bytes)} leaked"
    )


def _plan(plan: Plan) -> list[str]:
    verdict = "is in memory" if plan.resident else "fits" if plan.fits else "does not fit now"
    seconds = "" if plan.seconds is None else f"in about {plan.seconds:.2f} s"
    going = f"{', '.join(plan.evicts)} would go" if plan.evicts else ""
    waiting = f"waits for {', '.join(plan.waits_for)}" if plan.waits_for else ""
    needs = f"needs {_mib(plan.needs_bytes)} ({'measured' if plan.measured else 'declared'})"
    remarks = [text for text in (seconds, going, waiting, plan.reason or "") if text]
    return [plan.replica, verdict, needs, f"{_mib(plan.free_bytes)} free", ", ".join(remarks)]


def _ago(at: float | None) -> str:
    return "never" if at is None else f"{max(time.time() - at, 0):.0f} s ago"


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB"


def _json(told: list[ModelStatus] | AdminResult) -> str:
    plain: Any = told.model_dump() if isinstance(told, ModelStatus) else [_plain(one) for one in told]
    return json.dumps(plain, indent=2)


def _plain(one: ModelStatus | Plan) -> dict[str, Any]:
    return one.model_dump() if isinstance(one, ModelStatus) else asdict(one)
