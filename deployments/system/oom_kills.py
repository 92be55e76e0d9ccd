"""Which processes the kernel has killed for want of memory: they end by SIGKILL, as those do that somebody kills."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from deployments.system.node_memory import CGROUP, MOUNTS

VMSTAT = Path("/proc/vmstat")
SAME_S = 2.0
"""Deaths that are noticed within this time of a kill are taken for it."""


def oom_kills(cgroup: Path = CGROUP, mounts: Path = MOUNTS, vmstat: Path = VMSTAT) -> int:
    """How many in this process's cgroup, where it has one of version 2, else on this machine; 0 without a counter."""
    for counters in (*_events(cgroup, mounts), vmstat):
        with suppress(OSError, ValueError):
            for line in counters.read_text("utf-8").splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0


def _events(cgroup: Path, mounts: Path) -> Iterator[Path]:
    with suppress(OSError, ValueError):
        for line in cgroup.read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                yield mounts / path.lstrip("/") / "memory.events"


class OomWatch:
    """Says of a process that has just ended by SIGKILL whether the kernel killed one for want of memory."""

    def __init__(self, count: Callable[[], int] = oom_kills, clock: Callable[[], float] = time.monotonic) -> None:
        self._count, self._clock = count, clock
        self._seen = count()
        self._at = -math.inf

    def just_now(self) -> bool:
        seen, now = self._count(), self._clock()
        if seen > self._seen:
            self._seen, self._at = seen, now
        return now - self._at < SAME_S
