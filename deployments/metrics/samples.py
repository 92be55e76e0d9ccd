"""What families measure of their models, added up over replicas and reloads. Imports neither torch nor Ray.

Counters and histograms count from their source's start, so that a report may be lost, or come twice from two sides.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

LIVE_S = 10.0
"""For so long a gauge holds after its source was last heard."""

FORGET_S = 600.0
"""A source that was silent for so long does not come back."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of one model. A histogram's `values` are the counts up to each of `bounds`, the rest, and the sum."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    values: tuple[float, ...]
    bounds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """All of one model in one replica. `source` is another after a reload."""

    source: str
    model: str
    measures: tuple[Measure, ...]


class Measures:
    """The sums by model. Counters never fall; gauges are those of sources that still live."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._heard: dict[str, tuple[float, Measured]] = {}
        self._sums: dict[tuple[str, str], Measure] = {}  # by name and model

    def add(self, report: Iterable[Measured]) -> None:
        now = self.clock()
        if any(at < now - FORGET_S for at, _ in self._heard.values()):
            self._heard = {source: heard for source, heard in self._heard.items() if heard[0] >= now - FORGET_S}
        for measured in report:
            _, before = self._heard.get(measured.source, (0.0, None))
            known = {measure.name: measure.values for measure in before.measures} if before else {}
            counted = [measure for measure in measured.measures if measure.kind != "gauge"]
            if any(measure.values < known.get(measure.name, ()) for measure in counted if measure.kind == "counter"):
                continue  # Two ingresses tell of the same source, and this is what it said before.
            for measure in counted:
                self._grow(measured.model, measure, known.get(measure.name))
            self._heard[measured.source] = (now, measured)

    def _grow(self, model: str, measure: Measure, before: tuple[float, ...] | None) -> None:
        total = self._sums.get((measure.name, model))
        was = before or (0.0,) * len(measure.values)
        so_far = total.values if total else (0.0,) * len(measure.values)
        grown = (a + now - then for a, now, then in zip(so_far, measure.values, was, strict=True))
        self._sums[measure.name, model] = Measure(
            measure.name, measure.kind, measure.help, tuple(grown), measure.bounds
        )

    def render(self) -> Iterator[str]:
        """Lines of Prometheus' text format."""
        shown = {**self._sums, **self._gauges()}
        named = ""
        for (name, model), measure in sorted(shown.items()):
            if name != named:
                named = name
                yield f"# HELP {name} {measure.help}"
                yield f"# TYPE {name} {measure.kind}"
            yield from _lines(measure, escaped(model))

    def _gauges(self) -> dict[tuple[str, str], Measure]:
        gauges: dict[tuple[str, str], Measure] = {}
        for at, measured in self._heard.values():
            for measure in measured.measures:
                if measure.kind == "gauge":
                    live = at >= self.clock() - LIVE_S
                    other = gauges.get((measure.name, measured.model))
                    value = (measure.values[0] if live else 0.0) + (other.values[0] if other else 0.0)
                    gauges[measure.name, measured.model] = Measure(measure.name, "gauge", measure.help, (value,))
        return gauges


def _lines(measure: Measure, model: str) -> Iterator[str]:
    if measure.kind != "histogram":
        yield f'{measure.name}{{model="{model}"}} {measure.values[0]!r}'
        return
    *counts, total = measure.values
    below = 0.0
    for bound, count in zip((*measure.bounds, float("inf")), counts, strict=True):
        below += count
        le = "+Inf" if bound == float("inf") else f"{bound:g}"
        yield f'{measure.name}_bucket{{model="{model}",le="{le}"}} {below:.0f}'
    yield f'{measure.name}_sum{{model="{model}"}} {total:.6f}'
    yield f'{measure.name}_count{{model="{model}"}} {below:.0f}'


def escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
