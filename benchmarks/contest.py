"""Contestants measured one after the other, never two at a time, in rounds whose order alternates."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.load import Measure
from benchmarks.report import Results
from benchmarks.servers import ServerFailed

Trial = Callable[[], Mapping[str, Measure]]
"""Starts a contestant, warms it, measures it at every point, and stops it again."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long everything takes. `lead_in_s`: load before each point that is not counted."""

    seconds: int
    rounds: int
    lead_in_s: int
    settle_s: float


def compete(trials: Mapping[str, Trial], rounds: int) -> tuple[Results, list[str]]:
    """All the measures, and a line for each contestant that failed."""
    results: Results = {}
    failures: list[str] = []
    names = list(trials)
    for number in range(rounds):
        # Forth and back: a drift of the machine meets all alike.
        for name in names if number % 2 == 0 else names[::-1]:
            begin = time.monotonic()
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
    return results, failures
