"""The table: for people on the terminal, and as Markdown."""

import datetime
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serve_app.bench.loops import Measure, median
from serve_app.bench.machine import machine

US = "model-runtime"
Results = dict[tuple[str, str], list[Measure]]
"""(point, contestant) to a measure a round."""


@dataclass
class Table:
    """`points` and `contestants` in the order in which they are shown. `notes`: what the figures alone do not say."""

    title: str
    unit: str
    points: Sequence[str]
    contestants: Sequence[str]
    results: Results
    notes: list[str] = field(default_factory=list)
    failed: bool = False
    """Whether a contestant did not get through."""

    def markdown(self) -> str:
        head = ["", "", self.unit, "rounds", "p50 ms", "p99 ms", "ours ÷ theirs", "their p50 ÷ ours"]
        rows = [row for point in self.points for row in self._rows(point)]
        notes = "".join(f"\n- {note}" for note in self.notes)
        return f"### {self.title}\n\n{aligned(head, rows)}\n{notes}\n"

    def _rows(self, point: str) -> list[list[str]]:
        ours = self.results.get((point, US))
        rows: list[list[str]] = []
        for contestant in self.contestants:
            measures = self.results.get((point, contestant))
            if measures:
                rows.append(
                    [point if not rows else "", contestant, *_figures(measures), *_ratios(ours, measures, contestant)]
                )
        return rows


@dataclass
class Claims:
    """What was promised, and what was measured."""

    title: str
    rows: list[tuple[str, str, str]]
    """(what, measured, promised)."""
    notes: list[str] = field(default_factory=list)
    failed: bool = False
    """Whether a promise was not kept."""

    def markdown(self) -> str:
        notes = "".join(f"\n- {note}" for note in self.notes)
        rows = [list(row) for row in self.rows]
        return f"### {self.title}\n\n{aligned(['', 'measured', 'promised'], rows)}\n{notes}\n"


def heading(name: str, versions: Mapping[str, str], rounds: int) -> str:
    """What the figures were measured with and on."""
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    named = ", ".join(f"{package} {number}" for package, number in versions.items())
    return (
        f"## {name}\n\n`{command}`, {datetime.date.today().isoformat()}, median of {rounds} "
        f"round{'s' if rounds > 1 else ''}. {machine()}. {named}.\n"
    )


def append(file: Path, text: str) -> None:
    """Adds to a Markdown file, which is made if it is not there."""
    before = file.read_text("utf-8").rstrip("\n") if file.is_file() else "# Performance"
    file.write_text(f"{before}\n\n{text}", "utf-8")


def _figures(measures: Sequence[Measure]) -> list[str]:
    middle = median(measures)
    rates = sorted(measure.rate for measure in measures)
    spread = f"{_short(rates[0])}–{_short(rates[-1])}" if len(rates) > 1 else "1"
    failed = f" ({middle.errors} errors)" if middle.errors else ""
    return [_short(middle.rate) + failed, spread, _short(middle.p50_ms), _short(middle.p99_ms)]


def _ratios(ours: Sequence[Measure] | None, theirs: Sequence[Measure], contestant: str) -> list[str]:
    if ours is None or contestant == US:
        return ["", ""]
    we, they = median(ours), median(theirs)
    return [_times(we.rate, they.rate), _times(they.p50_ms, we.p50_ms)]


def _times(more: float, less: float) -> str:
    ratio = more / less if less else math.nan
    return "–" if math.isnan(ratio) else f"{ratio:.2f}×"


def _short(figure: float) -> str:
    """Three digits that matter; a dash where nothing was answered."""
    if math.isnan(figure):
        return "–"
    if figure >= 100:
        return f"{figure:,.0f}"
    return f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}"


def aligned(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table: the first two columns to the left, figures to the right."""
    widths = [max(len(row[n]) for row in [head, *rows]) for n in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [cell.ljust(widths[n]) if n < 2 else cell.rjust(widths[n]) for n, cell in enumerate(row)]
        lines.append("| " + " | ".join(cells) + " |")
    rule = "|" + "|".join("-" * (width + 1) + ("-" if n < 2 else ":") for n, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
