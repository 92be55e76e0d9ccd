"""The events of a request, from the engine's thread into the event loop. Knows neither tokens nor torch."""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from deployments.contract.errors import ServingError
from deployments.contract.types import Chunk, TokenLogprob
from deployments.replica.calls import OnChunk

if TYPE_CHECKING:
    from deployments.engines.text.request import Event, Finished


class LoopNotifier:
    """Runs callbacks in the event loop. To wake it costs more than a decode step, so callbacks share a wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._callbacks: deque[Callable[[], None]] = deque()
        self._woken = False

    def run_soon(self, callback: Callable[[], None]) -> None:
        """From any thread."""
        self._callbacks.append(callback)
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._run_all)

    def _run_all(self) -> None:
        self._woken = False  # First: a callback that is added from here on wakes the loop again.
        while self._callbacks:
            self._callbacks.popleft()()


class GenerationOutput:
    """Collects the text of one request. In the event loop, `on_chunk` gets the chunks and `finished` the end."""

    def __init__(self, notifier: LoopNotifier, on_chunk: OnChunk | None) -> None:
        self._notifier = notifier
        self._on_chunk = on_chunk
        self._text: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.finished: asyncio.Future[Finished] = asyncio.get_running_loop().create_future()
        """Raises the ServingError that the request failed with."""

    @property
    def text(self) -> str:
        return "".join(self._text)

    def emit(self, event: "Event") -> None:
        """Called in the engine's thread."""
        if not isinstance(event, Chunk):
            self._notifier.run_soon(partial(self._end, event))
            return
        self._text.append(event.text)
        self.logprobs += event.logprobs
        if self._on_chunk:
            self._notifier.run_soon(partial(self._on_chunk, event))

    def _end(self, event: "Finished | ServingError") -> None:
        if self.finished.done():  # The request was cancelled.
            return
        if isinstance(event, ServingError):
            self.finished.set_exception(event)
        else:
            self.finished.set_result(event)
