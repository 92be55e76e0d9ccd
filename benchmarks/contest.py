"""Contestants measured one after the other, never two at a time, in rounds whose order alternates."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil

from benchmarks.report import Results
from benchmarks.servers import ServerFailed
from serve_app.bench.loops import Measure

LOOK_FOR_OTHERS_S = 2
DISTURBING_PERCENT = 5

Trial = Callable[[], Mapping[str, Measure]]
"""Starts a contestant, warms it, measures it at every point, and stops it again."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long everything takes. `lead_in_s`: load before each point that is not counted."""

    seconds: int
    rounds: int
    lead_in_s: int
    settle_s: float


@dataclass(frozen=True, slots=True)
class Contest:
    """`notes` say what disturbed it, `failures` name each contestant that did not get through."""

    results: Results
    notes: list[str]
    failures: list[str]


def compete(trials: Mapping[str, Trial], rounds: int) -> Contest:
    """Measures every contestant in every round."""
    results: Results = {}
    failures: list[str] = []
    others = 0.0
    names = list(trials)
    for number in range(rounds):
        # Forth and back: a drift of the machine meets all alike.
        for name in names if number % 2 == 0 else names[::-1]:
            begin = time.monotonic()
            # Nothing of ours runs now.
            others = max(others, psutil.cpu_percent(LOOK_FOR_OTHERS_S))
            print(f"[round {number + 1} of {rounds}] {name} …", flush=True)
            try:
                measures = trials[name]()
            except ServerFailed as failure:
                print(failure, flush=True)
                failures.append(f"{name} failed in round {number + 1}: {str(failure).splitlines()[0]}")
                continue
            for point, measure in measures.items():
                results.setdefault((point, name), []).append(measure)
            rates = ", ".join(f"{measure.rate:.1f}/s" for measure in measures.values())
            print(f"    {rates} after {time.monotonic() - begin:.0f} s", flush=True)
    notes = [f"Between the trials other processes used up to {others:.0f} % of the machine."]
    if others > DISTURBING_PERCENT:
        notes[0] = f"**The machine was not ours alone: do not trust these figures.** {notes[0]}"
    return Contest(results, notes, failures)
