"""How requests of one replica share its computing and its memory. Knows neither audio nor models."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from deployments.contract.errors import Cancelled


class Turns:
    """One thread computes at a time, in the order in which they ask."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._order: deque[object] = deque()

    def __enter__(self) -> None:
        ticket = object()
        with self._changed:
            self._order.append(ticket)
            self._changed.wait_for(lambda: self._order[0] is ticket)

    def __exit__(self, *failure: object) -> None:
        with self._changed:
            self._order.popleft()
            self._changed.notify_all()


class LongWork:
    """One request's computing in a thread of its own, begun in a turn and going on in many. `over` is set where its
    caller is gone."""

    def __init__(self, turns: Turns) -> None:
        self.over = threading.Event()
        self._turns = turns

    def check(self) -> None:
        """Raises Cancelled where the request is over."""
        if self.over.is_set():
            raise Cancelled("the request is over")

    def pause(self) -> None:
        """Others take their turns. Raises Cancelled where the request is over."""
        self.check()
        self._turns.__exit__()
        self._turns.__enter__()
        self.check()


class AudioMemory:
    """What decoded audio may take together. One request alone may take more, and so may those whose files hold more
    than they say; the next ones then wait."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.held_bytes = 0
        self._changed = asyncio.Condition()
        self._waiting: deque[object] = deque()

    @asynccontextmanager
    async def claim(self, expected_bytes: int) -> AsyncIterator["Claim"]:
        """Waits until there is room, first come first served."""
        ticket = object()
        async with self._changed:
            self._waiting.append(ticket)
            try:
                await self._changed.wait_for(lambda: self._waiting[0] is ticket and self._fits(expected_bytes))
                self.held_bytes += expected_bytes
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        claim = Claim(self, expected_bytes)
        try:
            yield claim
        finally:
            await claim.settle(0)

    async def change(self, difference: int) -> None:
        self.held_bytes += difference
        async with self._changed:
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return not self.held_bytes or self.held_bytes + size <= self.budget_bytes


class Claim:
    """Bytes of an AudioMemory."""

    def __init__(self, memory: AudioMemory, size: int) -> None:
        self._memory = memory
        self._size = size

    async def settle(self, size: int) -> None:
        """It takes so many bytes, as it turned out."""
        difference, self._size = size - self._size, size
        await self._memory.change(difference)
