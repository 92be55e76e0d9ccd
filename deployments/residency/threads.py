"""The threads that do a residency's blocking work. Tests inject others, whose progress they control."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

LOADS_AT_ONCE = 2
"""Memory is reserved for so many loads at a time, since memory reserved for a load that has not begun lies idle.

More loads at once finish a burst of cold models sooner; fewer evict less. Measured with engines that take 30 ms +
3 ms a MiB: 0.27 loads a request with 2, 0.34 with 4 (docs/residency.md, "The eviction score").
"""

T = TypeVar("T")


class Threads:
    """One pool validates folders, one thread closes engines, and each load has a thread of its own."""

    def __init__(self) -> None:
        self._validations = ThreadPoolExecutor(LOADS_AT_ONCE, "validate")
        self._unloads = ThreadPoolExecutor(1, "unload")

    async def validate(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._validations, work)

    async def load(self, work: Callable[[], T]) -> T:
        """In a thread that ends with the load: the OpenMP threads that it started end with it."""
        pool = ThreadPoolExecutor(1, "load")
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work)
        finally:
            pool.shutdown(wait=False)

    async def unload(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._unloads, work)

    def close(self) -> None:
        """Waits for nothing."""
        self._validations.shutdown(wait=False)
        self._unloads.shutdown(wait=False)
