"""What the terminal shows: families, models, the last errors. Draws; asks nothing."""

import datetime
from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deployments.contract.status import ModelStatus
from serve_app.top.sampling import (
    BUDGET,
    GPU,
    REQUESTS,
    RUNNING,
    TOKENS,
    USED,
    WAITING,
    History,
    Period,
    Sample,
    families_of,
)

_STATES = {"ready": "green", "loading": "yellow", "unloading": "yellow", "failed": "bold red"}
MIB = 2**20


def screen(url: str, history: History, clock: Callable[[float], str], trouble: str = "") -> RenderableType:
    """`trouble`: why there is no new sample. `clock`: how a sample's time is shown."""
    sample, period = history.sample, history.period
    head = Text.assemble((url, "bold"))
    if sample is not None:
        head.append(f"   {clock(sample.at)}")
        if sample.series.get(GPU):
            head.append(f"   GPU {sample.sum(GPU):.0f} %")
        if period is not None:
            head.append(f"   {period.rate(REQUESTS):.1f} requests/s, {period.rate(TOKENS):.0f} tokens/s")
    if trouble:
        head.append(f"   {trouble}", "bold red")
    parts: list[RenderableType] = [head]
    if sample is not None:
        parts += [_families(sample, period), _models(sample, period)]
    if history.failures:
        parts.append(_failures(history, clock))
    return Group(*parts)


def _table(*columns: str) -> Table:
    """Where the terminal is narrow, names and remarks are cut, and numbers are not."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for number, column in enumerate(columns):
        left, cut = number == 0 or column in ("state", "remark", "code"), number == 0 or column == "remark"
        table.add_column(column, justify="left" if left else "right", overflow="ellipsis", no_wrap=not cut)
    return table


def _families(sample: Sample, period: Period | None) -> Table:
    table = _table("FAMILY", "ready", "replicas", "memory", "req/s", "err/s", "p50", "p99")
    for family in families_of(sample.models):
        own = [model for model in sample.models if model.family == family]
        ready = sum(model.state == "ready" for model in own)
        memory = f"{sample.sum(USED, family=family) / MIB:.0f} of {_mib(sample.sum(BUDGET, family=family))}"
        table.add_row(
            family,
            f"{ready} of {len(own)}",
            str(sample.count(BUDGET, family=family)),
            memory if sample.count(BUDGET, family=family) else "–",
            *_rates(period, family=family),
            *(_ms(period.quantile(q, family=family) if period else None) for q in (0.5, 0.99)),
        )
    return table


def _rates(period: Period | None, **labels: str) -> tuple[str, str]:
    if period is None:
        return "–", "–"
    every, good = period.rate(REQUESTS, **labels), period.rate(REQUESTS, outcome="ok", **labels)
    return f"{every:.1f}", f"{max(every - good, 0):.1f}"


def _models(sample: Sample, period: Period | None) -> Table:
    table = _table("MODEL", "state", "memory", "req/s", "err/s", "tok/s", "running", "waiting", "remark")
    for model in sorted(sample.models, key=lambda one: (one.state != "ready", one.model_id)):
        name = model.model_id
        tokens = period.rate(TOKENS, model=name) if period else 0.0
        table.add_row(
            name,
            Text(model.state, _STATES.get(model.state, "")),
            _mib(sum(model.resident_bytes)) if model.resident_bytes else "–",
            *_rates(period, model=name),
            f"{tokens:.0f}" if tokens else "–",
            *(
                f"{sample.sum(one, model=name):.0f}" if sample.count(one, model=name) else "–"
                for one in (RUNNING, WAITING)
            ),
            _remark(model),
        )
    return table


def _remark(model: ModelStatus) -> str:
    return ", ".join(filter(None, ("pinned" if model.pinned else "", model.reason or "")))


def _failures(history: History, clock: Callable[[float], str]) -> Table:
    table = _table("LAST ERRORS", "code", "requests", "model")
    for failure in reversed(history.failures):
        table.add_row(clock(failure.at), Text(failure.code, "red"), str(failure.count), failure.model)
    return table


def time_of_day(at: float) -> str:
    return datetime.datetime.fromtimestamp(at).strftime("%H:%M:%S")


def _mib(size: float) -> str:
    return f"{size / MIB:.0f} MiB"


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1e3:.0f} ms"
