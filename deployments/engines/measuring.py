"""How long a computation takes, on a machine on which others compute too."""

import time
from collections.abc import Callable

MEASURING_S = 0.2
"""Time to measure once, beyond the first two runs."""


def fastest_of(run: Callable[[], object]) -> float:
    """Seconds of the fastest of up to ten runs, the first left out: noise only adds."""
    run()
    best, until = float("inf"), time.perf_counter() + MEASURING_S
    for _ in range(10):
        start = time.perf_counter()
        run()
        end = time.perf_counter()
        best = min(best, end - start)
        if end > until:
            break
    return best
