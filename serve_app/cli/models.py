"""`model-runtime models …`: lists, shows, loads, unloads, pins, unpins and plans models. Prints lines, or JSON."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence

from pydantic_core import to_jsonable_python

from deployments.contract.status import AdminResult, ModelStatus, Plan, Residence, Verb
from serve_app.cli import connection
from serve_app.client.client import ModelRuntimeClient

MIB = 2**20
_RETRYABLE = {True: "yes: trying again may help", False: "no: its files or the settings have to change"}


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
        result = _administer(client, options.verb, options.model) if options.verb else client.models()
        for warning in [] if options.verb else client.warnings():
            print(f"warning: {warning}", file=sys.stderr)
    if options.json:
        print(json.dumps(to_jsonable_python(result), indent=2))
    elif isinstance(result, ModelStatus):
        print(_details(result))
    else:
        print(table([_plan(one) if isinstance(one, Plan) else _row(one) for one in result]))
    return None


def _administer(client: ModelRuntimeClient, verb: Verb, model: str) -> AdminResult:
    calls: dict[Verb, Callable[[str], AdminResult]] = {
        Verb.SHOW: client.model,
        Verb.LOAD: client.load,
        Verb.UNLOAD: client.unload,
        Verb.PIN: client.pin,
        Verb.UNPIN: lambda model: client.pin(model, False),
        Verb.PLAN: client.plan,
    }
    return calls[verb](model)


def table(rows: Sequence[Sequence[str]]) -> str:
    """One row a line, each column as wide as its widest cell."""
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


def _details(status: ModelStatus) -> str:
    facts = [
        ("model", status.model_id),
        ("family", status.family or "–"),
        ("version", _version(status)),
        ("state", status.state + (", pinned" if status.pinned else "")),
        ("reason", status.reason or ""),
        ("retryable", "" if status.retryable is None else _RETRYABLE[status.retryable]),
        ("declared", _mib(status.declared_bytes)),
        ("loads", str(status.loads)),
        ("evictions", str(status.evictions)),
        ("last use", _ago(status.last_use)),
        *(("note", note) for note in status.notes),
        *((f"refused {name}", reason) for name, reason in status.refused.items()),
        *(("replica", _replica(residence)) for residence in status.replicas),
    ]
    return table([fact for fact in facts if fact[1]])


def _replica(residence: Residence) -> str:
    version = f"version {residence.version}, " if residence.version is not None else ""
    process, unload = residence.process, residence.last_unload
    if unload:
        size, before, after = map(_mib, (unload.bytes, unload.process_bytes_before, unload.process_bytes_after))
        last_unload = f"its last unload, of {size}, took the process from {before} to {after}; "
    else:
        last_unload = ""
    return (
        f"{residence.replica}: {version}{residence.state}, {_mib(residence.bytes)}, {residence.loads} loads "
        f"(the last in {residence.load_s:.2f} s), {residence.evictions} evictions, {residence.leases} requests; "
        f"{last_unload}all its models {_mib(process.accounted_bytes)} of {_mib(process.budget_bytes)}, "
        f"its process {_mib(process.process_bytes)}, {_mib(process.resting_bytes)} at rest, "
        f"{_mib(process.leaked_bytes)} leaked"
    )


def _plan(plan: Plan) -> list[str]:
    verdict = "is in memory" if plan.resident else "fits" if plan.fits else "does not fit now"
    seconds = "" if plan.seconds is None else f"in about {plan.seconds:.2f} s"
    evicted = f"{', '.join(plan.evicts)} would go" if plan.evicts else ""
    waiting = f"waits for {', '.join(plan.waits_for)}" if plan.waits_for else ""
    needs = f"needs {_mib(plan.needs_bytes)} ({'measured' if plan.measured else 'declared'})"
    remarks = [text for text in (seconds, evicted, waiting, plan.reason or "") if text]
    return [plan.replica, verdict, needs, f"{_mib(plan.free_bytes)} free", ", ".join(remarks)]


def _ago(at: float | None) -> str:
    return "never" if at is None else f"{max(time.time() - at, 0):.0f} s ago"


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB"
