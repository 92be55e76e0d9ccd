"""What the requests of one run come to: rates, percentiles, goodput; as lines, as JSON, as a picture."""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from serve_app.bench.loops import Span, summarise

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
SLO_NAMES = ("latency", "ttft", "tpot")


def latency(span: Span) -> float | None:
    return span.end - span.start


def ttft(span: Span) -> float | None:
    """Until the first text."""
    return None if span.first_at is None else span.first_at - span.start


def tpot(span: Span) -> float | None:
    """For each token after the first."""
    return None if span.first_at is None or span.tokens < 2 else (span.end - span.first_at) / (span.tokens - 1)


_FIGURES: Mapping[str, Callable[[Span], float | None]] = {"latency": latency, "ttft": ttft, "tpot": tpot}


@dataclass(frozen=True, slots=True)
class Summary:
    """Of the requests that ended within the time that counts. Times in seconds, by quantile."""

    requests: int
    errors: Mapping[str, int]
    requests_per_s: float
    tokens_per_s: float
    seconds: Mapping[str, Mapping[str, float]]
    """Latency, ttft, tpot: each by quantile."""
    good_share: float
    """Of the requests, those that were answered within the objective."""
    goodput_per_s: float


@dataclass(frozen=True, slots=True)
class Report:
    command: str
    machine: str
    date: str
    url: str
    counted_s: float
    objective: Mapping[str, float]
    whole: Summary
    models: Mapping[str, Summary]
    spans: Sequence[Span] = field(repr=False, default=())

    def as_json(self) -> str:
        shown: dict[str, Any] = asdict(self)
        shown["spans"] = [[getattr(span, name) for name in Span.__dataclass_fields__] for span in self.spans]
        return json.dumps(shown | {"span_fields": list(Span.__dataclass_fields__)}, allow_nan=False) + "\n"

    def as_lines(self) -> str:
        parts = [_lines("all", self.whole)]
        if len(self.models) > 1:
            parts += [_lines(name, summary) for name, summary in self.models.items()]
        if wanted := ", ".join(f"{name} ≤ {limit:g} s" for name, limit in self.objective.items()):
            wanted = f"objective: {wanted}\n"
        head = f"{self.url}, {self.counted_s:g} s counted, {self.date}\n{self.machine}\n{wanted}\n"
        return head + "\n".join(parts)


def summary(spans: Sequence[Span], begin: float, end: float, objective: Mapping[str, float]) -> Summary:
    """`objective`: seconds by `latency`, `ttft` and `tpot`, each of which a good request keeps."""
    ended = [span for span in spans if begin < span.end <= end]
    answered = [span for span in ended if not span.error]
    good = [span for span in answered if _keeps(span, objective)]
    of_tokens = [Span(span.start, span.end, span.tokens) for span in spans if span.tokens]
    figures = {
        name: quantiles([value for span in answered if (value := figure(span)) is not None])
        for name, figure in _FIGURES.items()
    }
    return Summary(
        requests=len(ended),
        errors=dict(Counter(span.error for span in ended if span.error)),
        requests_per_s=summarise([span for span in spans if not span.error], begin, end).rate,
        tokens_per_s=summarise(of_tokens, begin, end).rate,
        seconds={name: found for name, found in figures.items() if found},
        good_share=len(good) / len(ended) if ended else 0.0,
        goodput_per_s=len(good) / (end - begin),
    )


def _keeps(span: Span, objective: Mapping[str, float]) -> bool:
    return all((value := _FIGURES[name](span)) is None or value <= limit for name, limit in objective.items())


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """By nearest rank; none of no values."""
    ordered = sorted(values)
    return {name: ordered[max(0, math.ceil(q * len(ordered)) - 1)] for name, q in QUANTILES.items()} if ordered else {}


def _lines(name: str, one: Summary) -> str:
    lines = [f"{name}: {one.requests_per_s:.2f} requests/s ({one.requests})"]
    if one.tokens_per_s:
        lines[0] += f", {one.tokens_per_s:.1f} tokens/s"
    lines[0] += f", good {one.goodput_per_s:.2f}/s ({one.good_share:.1%})"
    for figure, values in one.seconds.items():
        shown = "  ".join(f"{quantile} {seconds * 1e3:8.1f} ms" for quantile, seconds in values.items())
        lines.append(f"  {figure:<8} {shown}")
    lines += [f"  {count} × {code}" for code, count in one.errors.items()]
    return "\n".join(lines) + "\n"


def plot(report: Report, file: Path) -> bool:
    """Draws latencies over time and their distribution into the file. False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(10, 4), layout="constrained")
    over_time, spread = figure.subplots(1, 2)
    begin = min((span.start for span in report.spans), default=0.0)
    for name in report.models:
        spans = [span for span in report.spans if span.name == name and not span.error]
        latencies = [(span.end - span.start) * 1e3 for span in spans]
        over_time.plot([span.end - begin for span in spans], latencies, ".", markersize=3, label=name)
        if latencies:
            spread.ecdf(latencies, label=name)
            spread.legend(loc="lower right")
    over_time.set(xlabel="seconds", ylabel="latency, ms", ylim=(0, None))
    spread.set(xlabel="latency, ms", ylabel="share of requests", xlim=(0, None))
    figure.suptitle(f"{report.whole.requests_per_s:.1f} requests/s; {report.machine}", fontsize=8)
    figure.savefig(file)
    return True
