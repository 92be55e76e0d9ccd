"""The memory of this process: how much it holds, and returning to the system what it no longer needs."""

import ctypes
import gc
import time
from typing import Protocol

import psutil

ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""For the environment that replicas start in. glibc gives each thread an arena, each load is a thread, and memory that
is free in one arena is of no use to others: after 500 loads a process was 31 MiB larger, with no more in use."""
COLLECT_EVERY_S = 30.0

_collected_at = -COLLECT_EVERY_S


class Closes(Protocol):
    def close(self) -> None: ...


class Memory(Protocol):
    """Memory in which models live: the CPU's or a GPU's."""

    def held(self) -> int:
        """Bytes that this process holds there."""

    def give_back(self) -> None:
        """Returns freed memory to the system."""


class ProcessMemory:
    """The CPU's."""

    def held(self) -> int:
        return int(psutil.Process().memory_info().rss)

    def give_back(self) -> None:
        """glibc keeps freed memory in its arenas, up to 100 MB a model, until `malloc_trim`."""
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def unload(engine: Closes, size: int, memory: Memory) -> tuple[int, int]:
    """Closes an engine of `size` bytes. Bytes held before and after."""
    before = memory.held()
    engine.close()
    memory.give_back()
    after = memory.held()
    global _collected_at
    if before - after < size // 2 and time.monotonic() - _collected_at > COLLECT_EVERY_S:
        # Reference cycles may hold it. A collection stops every thread for up to 0.25 s, so it runs only now and then:
        # another load may as well have taken meanwhile what seems missing.
        _collected_at = time.monotonic()
        gc.collect()
        memory.give_back()
        after = memory.held()
    return before, after
