"""A lock that a replica's calls share. A call whose input may have ended a replica holds it exclusively."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class SharedLock:
    """While a call holds the lock exclusively, or waits for that, no other call gets it.

    A call that shares it increments `shared`, after `wait_until_shared` where `exclusive` is not 0. At its end it
    decrements `shared`, and calls `shared_released` where `exclusive` is not 0: without an exclusive call it costs two
    additions.
    """

    def __init__(self) -> None:
        self.shared = 0
        """Calls that hold it together."""
        self.exclusive = 0
        """Calls that hold it exclusively or wait for that."""
        self._one_at_a_time = asyncio.Lock()
        self._none_shared, self._none_exclusive = asyncio.Event(), asyncio.Event()

    async def wait_until_shared(self) -> None:
        while self.exclusive:
            await self._none_exclusive.wait()

    def shared_released(self) -> None:
        if not self.shared:
            self._none_shared.set()

    @asynccontextmanager
    async def held_exclusively(self) -> AsyncIterator[None]:
        """Enters once no call shares it."""
        self.exclusive += 1
        self._none_exclusive.clear()
        try:
            async with self._one_at_a_time:
                while self.shared:
                    self._none_shared.clear()
                    await self._none_shared.wait()
                yield
        finally:
            self.exclusive -= 1
            if not self.exclusive:
                self._none_exclusive.set()
