"""The size of a loop's OpenMP pool: all the threads it may have, fewer while others use their cores.

The threads of a pool wait for each other at the end of every operation, hundreds of times a step. If one of them waits
milliseconds for its core each time, the others spin and the step stands still. With one thread fewer the loop is then
many times as fast. The figures are in docs/text-engine.md.
"""

import time
from typing import NamedTuple

from deployments.engines.device import end_openmp_pool, resize_openmp_pool

WINDOW_S = 0.1
HELD_UP = 0.4
"""The share of a window in which the loop's own thread did not have its core, from which on the pool shrinks."""
MISSED_CORES = 0.6
"""Cores that the whole pool lacked in a window, from which on it shrinks. A thread that waits for others spins, and so
counts as computing."""
FIRST_REST_S = 0.5
LONGEST_REST_S = 8.0
"""Until the pool grows again: twice as long after each window that was held up, half as long after each that was not.
A shorter rest costs more held-up windows on a busy machine, a longer one a core on an idle one."""


class Clocks(NamedTuple):
    """Seconds of the wall clock, of CPU time of the calling thread, and of CPU time of the process."""

    wall: float
    own: float
    process: float

    @classmethod
    def now(cls) -> "Clocks":
        return cls(time.perf_counter(), time.thread_time(), time.process_time())


class OpenMPPool:
    """The pool of the calling thread, which has `most` threads at first."""

    def __init__(self, most: int) -> None:
        self.size = most
        self._most = most
        self._rest_s = FIRST_REST_S
        self._grows_at = 0.0
        self._since: Clocks | None = None
        self._window = Clocks(0, 0, 0)

    def adjust(self) -> None:
        """After each step. The first one after a pause only begins a window."""
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
        """Nothing is computed for a while. An idle pool slows down the loops of other models."""
        end_openmp_pool()
        self._since = None

    def _judge(self, now: float) -> None:
        wall, own, process = self._window
        self._window = Clocks(0, 0, 0)
        if self.size > 1 and (own < (1 - HELD_UP) * wall or process < (self.size - MISSED_CORES) * wall):
            self._grows_at = now + self._rest_s
            self._rest_s = min(2 * self._rest_s, LONGEST_REST_S)
            self._resize(self.size - 1)
        elif self.size < self._most and now >= self._grows_at:
            self._resize(self.size + 1)
        elif self.size == self._most:
            self._rest_s = max(self._rest_s / 2, FIRST_REST_S)

    def _resize(self, size: int) -> None:
        self.size = size
        resize_openmp_pool(size)
