"""How many seconds of work wait in a replica: the sizes of its calls, by the pace at which it answered others.

A call's size is in units of its family, as the family's row has them (`Family.work`). The pace, seconds for a unit, is
measured for each model: the replica's time is divided among the calls that it works on side by side.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

QUEUED_S, CALLS_QUEUED, PACE, BUSY = "queued_s", "calls_queued", "pace", "busy"
"""The names under which Serve's autoscaling statistics have them."""
KEPT = 1 - 1 / 32
"""Of what was measured before, at each answer: the pace is that of about the last 32."""


@dataclass(slots=True, eq=False)
class _Job:
    model: str
    units: float
    began: float = 0.0


@dataclass(slots=True)
class _Pace:
    seconds: float = 0.0
    units: float = 0.0

    def add(self, seconds: float, units: float) -> None:
        self.seconds = self.seconds * KEPT + seconds
        self.units = self.units * KEPT + units

    @property
    def per_unit(self) -> float:
        return self.seconds / self.units if self.units else 0.0


class Workload:
    """The calls of one replica, first come first served, of which it works on `side_by_side` at a time."""

    def __init__(self, side_by_side: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self.side_by_side = side_by_side
        self._clock = clock
        self._working: set[_Job] = set()
        self._queued: dict[_Job, None] = {}
        self._paces: dict[str, _Pace] = {}
        self._all = _Pace()
        self._at = self._reported_at = clock()
        self._share_s = 0.0
        """The time that a call would have had that was worked on all along."""
        self._busy_s = 0.0
        """Since the last report, of what `side_by_side` calls would take."""

    @contextmanager
    def job(self, model: str, units: float) -> Iterator[None]:
        """The block is one call. What raises is not measured."""
        job = _Job(model, units)
        self._pass_time()
        self._queued[job] = None
        self._begin()
        try:
            yield
            self._pass_time()
            seconds = self._share_s - job.began if job in self._working else 0.0
            self._paces.setdefault(model, _Pace()).add(seconds, units)
            self._all.add(seconds, units)
        finally:
            self._pass_time()
            self._working.discard(job)
            self._queued.pop(job, None)
            self._begin()

    def report(self) -> dict[str, float]:
        """What waits, and the pace of all models, 0 while it is unknown; of the time since the last report, the share
        that was used."""
        self._pass_time()
        passed_s = self._at - self._reported_at
        busy = self._busy_s / passed_s if passed_s else 0.0
        self._busy_s, self._reported_at = 0.0, self._at
        queued_s = sum(job.units * self._paces.get(job.model, self._all).per_unit for job in self._queued)
        return {QUEUED_S: queued_s, CALLS_QUEUED: float(len(self._queued)), PACE: self._all.per_unit, BUSY: busy}

    def _begin(self) -> None:
        while self._queued and len(self._working) < self.side_by_side:
            job = next(iter(self._queued))
            del self._queued[job]
            job.began = self._share_s
            self._working.add(job)

    def _pass_time(self) -> None:
        now = self._clock()
        if self._working:
            self._share_s += (now - self._at) / len(self._working)
            self._busy_s += (now - self._at) * len(self._working) / self.side_by_side
        self._at = now
