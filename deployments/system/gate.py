"""Lets a replica's calls in together, and one alone: an input that is suspected of having ended a replica."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """While a call is alone, or waits for it, those that come are held.

    `inside`: calls that are let in together. Who comes adds itself, after `opened` where there are `loners`; who leaves
    takes itself off, and says `left` where there are.
    """

    def __init__(self) -> None:
        self.inside = 0
        self.loners = 0
        self._turn = asyncio.Lock()
        self._empty, self._open = asyncio.Event(), asyncio.Event()

    async def opened(self) -> None:
        """Returns once no call is alone, or waits for it."""
        while self.loners:
            await self._open.wait()

    def left(self) -> None:
        if not self.inside:
            self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Enters once all that are inside have left. One call at a time."""
        self.loners += 1
        self._open.clear()
        try:
            async with self._turn:
                while self.inside:
                    self._empty.clear()
                    await self._empty.wait()
                yield
        finally:
            self.loners -= 1
            if not self.loners:
                self._open.set()
