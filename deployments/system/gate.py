"""Lets a replica's calls in together, and one alone: an input that is suspected of having ended a replica."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """While a call is alone, or waits for it, those that come are held. Without one, entering costs a comparison."""

    def __init__(self) -> None:
        self._inside = 0
        self._loners = 0
        self._turn = asyncio.Lock()
        self._empty, self._open = asyncio.Event(), asyncio.Event()

    @property
    def closed(self) -> bool:
        return self._loners > 0

    async def opened(self) -> None:
        """Returns once no call is alone, or waits for it."""
        while self.closed:
            await self._open.wait()

    def enter(self) -> None:
        """Not while `closed`."""
        self._inside += 1

    def leave(self) -> None:
        self._inside -= 1
        if not self._inside:
            self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Enters once all that are inside have left. One call at a time."""
        self._loners += 1
        self._open.clear()
        try:
            async with self._turn:
                while self._inside:
                    self._empty.clear()
                    await self._empty.wait()
                yield
        finally:
            self._loners -= 1
            if not self._loners:
                self._open.set()
