"""How many threads compute the steps of a loop: all it may have, fewer while others want their cores.

Threads of a team wait for each other at the end of every operation, hundreds of times a step. Where one of them has to
wait for its core, for milliseconds each time, the others spin and nothing goes on: with one core fewer the loop is many
times as fast then (docs/text-engine.md).
"""

import time
from typing import NamedTuple

from deployments.engines.device import end_openmp_pool, use_team

WINDOW_S = 0.1
HELD_UP = 0.4
"""Of the loop's own thread, the share of time in which it does not compute."""
MISSED_CORES = 0.6
"""By all threads of the team together. One that waits for the others spins, and so counts as one that computes."""
FIRST_REST_S = 0.5
LONGEST_REST_S = 8.0
"""With fewer threads, until more are tried again: twice as long after each window that was held up, half as long after
each that was not."""


class Clocks(NamedTuple):
    """Seconds: of the wall, in which the calling thread computed, and in which all threads of the process did."""

    wall: float
    own: float
    process: float

    @classmethod
    def now(cls) -> "Clocks":
        return cls(time.perf_counter(), time.thread_time(), time.process_time())


class OpenMPPool:
    """Called by the thread that computes, which has `most` threads to begin with."""

    def __init__(self, most: int) -> None:
        self.size = most
        self._most = most
        self._rest_s = FIRST_REST_S
        self._grows_at = 0.0
        self._since: Clocks | None = None
        self._window = Clocks(0, 0, 0)

    def adjust(self) -> None:
        """Between two steps."""
        if self._most == 1:
            return
        now = Clocks.now()
        if self._since:
            passed = (end - begin for begin, end in zip(self._since, now, strict=True))
            self._window = Clocks(*map(sum, zip(self._window, passed, strict=True)))
        self._since = now
        if self._window.wall >= WINDOW_S:
            self._judge(now.wall)

    def pause(self) -> None:
        """Nothing is computed for a while. Others are faster without a team that waits."""
        end_openmp_pool()
        self._since = None

    def _judge(self, now: float) -> None:
        wall, own, process = self._window
        self._window = Clocks(0, 0, 0)
        if self.size > 1 and (own < (1 - HELD_UP) * wall or process < (self.size - MISSED_CORES) * wall):
            self._grows_at = now + self._rest_s
            self._rest_s = min(2 * self._rest_s, LONGEST_REST_S)
            self._take(self.size - 1)
        elif self.size < self._most and now >= self._grows_at:
            self._take(self.size + 1)
        elif self.size == self._most:
            self._rest_s = max(self._rest_s / 2, FIRST_REST_S)

    def _take(self, size: int) -> None:
        self.size = size
        use_team(size)
