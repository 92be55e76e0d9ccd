"""From an engine's thread into the event loop: what is said of a generation, at the price of few wake-ups.

Only replicas import this: it brings torch with it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from deployments.contract import types
from deployments.engines.text.request import Chunk, Event, Failed, Finished, TokenLogprob
from deployments.replica.calls import OnChunk


class LoopNotifier:
    """Runs callbacks in the loop. However many are given at once, from any threads, the loop is woken once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._given: deque[Callable[[], None]] = deque()
        self._rung = False

    def ring(self, callback: Callable[[], None]) -> None:
        self._given.append(callback)
        if not self._rung:
            self._rung = True
            self._loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._rung = False  # First: what is given from here on rings again.
        while self._given:
            self._given.popleft()()


class Listener:
    """Hears one generation out, in the engine's thread. The loop learns of chunks where `tell` wants them, and of the
    end: `finished` raises what the engine failed with."""

    def __init__(self, bell: LoopNotifier, tell: OnChunk | None) -> None:
        self._bell = bell
        self._tell = tell
        self._text: list[str] = []
        self.logprobs: list[types.TokenLogprob] = []
        self.finished: asyncio.Future[Finished] = asyncio.get_running_loop().create_future()

    @property
    def text(self) -> str:
        return "".join(self._text)

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Chunk):
            self._bell.ring(partial(self._end, event))
            return
        self._text.append(event.text)
        logprobs = tuple(map(_logprob, event.logprobs))
        self.logprobs += logprobs
        if self._tell:
            self._bell.ring(partial(self._tell, types.Chunk(event.text, event.index, logprobs)))

    def _end(self, event: Finished | Failed) -> None:
        if self.finished.done():  # nobody waits any more
            return
        if isinstance(event, Failed):
            self.finished.set_exception(event.error)
        else:
            self.finished.set_result(event)


def _logprob(said: TokenLogprob) -> types.TokenLogprob:
    top = [
        types.Alternative(token=other.text, logprob=_finite(other.logprob), utf8=list(other.utf8)) for other in said.top
    ]
    return types.TokenLogprob(token=said.text, logprob=_finite(said.logprob), utf8=list(said.utf8), top=top)


def _finite(logprob: float) -> float:
    """Impossible is as improbable as OpenAI says it."""
    return max(logprob, -9999.0)
