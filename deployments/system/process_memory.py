"""The size of this process, and giving back what it no longer needs."""

import ctypes
import gc
import os
import time
from pathlib import Path
from typing import Protocol

import psutil

ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""For the environment that replicas start in. glibc gives threads arenas of their own, each load is a thread, and what
is free in one arena is not there for others: after 500 loads a process was 31 MiB larger that held no more."""
COLLECT_EVERY_S = 30.0
PAGE = os.sysconf("SC_PAGE_SIZE")
STATM = Path("/proc/self/statm")

_collected_at = -COLLECT_EVERY_S


class Closes(Protocol):
    def close(self) -> None: ...


class Memory(Protocol):
    """Where models live, and how to see that it comes back."""

    def held(self) -> int:
        """Bytes that this process holds there."""

    def give_back(self) -> None:
        """Hand what was freed back to the system."""


class ProcessMemory:
    """Of the CPU."""

    def held(self) -> int:
        try:
            return int(STATM.read_text().split()[1]) * PAGE
        except OSError:  # not Linux
            return int(psutil.Process().memory_info().rss)

    def give_back(self) -> None:
        """glibc keeps what was freed in its arenas, up to 100 MB a model, until it is told."""
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def unload(engine: Closes, size: int, memory: Memory) -> tuple[int, int]:
    """Close an engine of `size` bytes. Bytes held before and after."""
    before = memory.held()
    engine.close()
    memory.give_back()
    after = memory.held()
    global _collected_at
    if before - after < size // 2 and time.monotonic() - _collected_at > COLLECT_EVERY_S:
        # Cycles may hold it. Collecting them stops every thread for up to a quarter of a second, so only now and then:
        # what did not come back may as well be what another load took meanwhile.
        _collected_at = time.monotonic()
        gc.collect()
        memory.give_back()
        after = memory.held()
    return before, after
