"""Many requests, in order, a bounded number of them at once. What is refused for the moment is asked again."""

import asyncio
import random
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from deployments.contract.errors import ServingError, Unavailable
from deployments.contract.types import Error, InferResponse

ATTEMPTS = 8
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
CONCURRENCY = 32

Item = TypeVar("Item")
Answer = TypeVar("Answer")


async def answer(ask: Callable[[], Awaitable[InferResponse]]) -> InferResponse:
    """A result, or the last attempt's `Error`. Raises Unavailable where the runtime cannot be reached."""
    for attempt in range(ATTEMPTS):
        last = attempt + 1 == ATTEMPTS
        retry_after_ms: int | None = None
        try:
            response = await ask()
        except Unavailable:
            if last:
                raise
        except ServingError as failure:
            return Error.of(failure)
        else:
            if last or not (isinstance(response, Error) and response.retryable):
                return response
            retry_after_ms = response.retry_after_ms
        pause_s = min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S)
        await asyncio.sleep(max(pause_s * random.uniform(0.5, 1), (retry_after_ms or 0) / 1000))
    raise AssertionError


async def in_order(
    work: Callable[[Item], Awaitable[Answer]], items: Iterable[Item], concurrency: int
) -> AsyncGenerator[Answer, None]:
    """What `work` makes of each item. Closing it cancels what is under way."""
    window: deque[asyncio.Future[Answer]] = deque()
    try:
        for item in items:
            if len(window) >= concurrency:
                yield await window.popleft()
            window.append(asyncio.ensure_future(work(item)))
        while window:
            yield await window.popleft()
    finally:
        for task in window:
            task.cancel()
        await asyncio.gather(*window, return_exceptions=True)


@dataclass(eq=False)
class _Asked:
    line: bytes
    answer: "asyncio.Future[bytes]"


class Families:
    """Lines of several families, each with workers of its own: a slow family keeps no other one from full batches.

    A worker has `ask` answer up to `most` lines that wait, of `most_bytes` together unless it is one.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[bytes]], Awaitable[Sequence[bytes]]],
        family_of: Callable[[bytes], str],
        workers: int,
        most: int,
        most_bytes: int,
    ) -> None:
        self._ask, self._family_of = ask, family_of
        self._most_workers, self._most, self._most_bytes = workers, most, most_bytes
        self._waiting: defaultdict[str, deque[_Asked]] = defaultdict(deque)
        self._workers: defaultdict[str, set[asyncio.Task[None]]] = defaultdict(set)

    async def in_order(self, lines: Iterable[bytes], ahead: int, ahead_bytes: int) -> AsyncGenerator[list[bytes], None]:
        """The answers in the order of the lines, as many at once as there are. Raises what `ask` raises.

        From the first line without an answer on `ahead` lines are asked, of `ahead_bytes` together unless it is one.
        """
        window, size = deque[_Asked](), 0
        try:
            for line in lines:
                while window and (len(window) >= ahead or size + len(line) > ahead_bytes):
                    await window[0].answer
                    answered = _popped(window)
                    size -= sum(len(asked.line) for asked in answered)
                    yield [asked.answer.result() for asked in answered]
                size += len(line)
                window.append(self._begin(line))
            while window:
                await window[0].answer
                yield [asked.answer.result() for asked in _popped(window)]
        finally:
            tasks = [task for workers in self._workers.values() for task in workers]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for asked in window:
                if not asked.answer.cancel():
                    asked.answer.exception()  # Of which nobody will ask.

    def _begin(self, line: bytes) -> _Asked:
        family = self._family_of(line)
        asked = _Asked(line, asyncio.get_running_loop().create_future())
        self._waiting[family].append(asked)
        workers = self._workers[family]
        if len(workers) < self._most_workers:
            workers.add(asyncio.create_task(self._work(family)))
        return asked

    async def _work(self, family: str) -> None:
        """Until none waits."""
        while group := self._next_group(self._waiting[family]):
            try:
                answers = await self._ask([asked.line for asked in group])
            except Exception as failure:
                for asked in group:
                    asked.answer.set_exception(failure)
            else:
                for asked, answer in zip(group, answers, strict=True):
                    asked.answer.set_result(answer)
        # At once: the next line that comes needs another one.
        self._workers[family] -= {asyncio.current_task()}

    def _next_group(self, waiting: deque[_Asked]) -> list[_Asked]:
        group, size = list[_Asked](), 0
        while waiting and len(group) < self._most and (not group or size + len(waiting[0].line) <= self._most_bytes):
            group.append(waiting.popleft())
            size += len(group[-1].line)
        return group


def _popped(window: deque[_Asked]) -> list[_Asked]:
    """The first ones that have an answer."""
    answered = list[_Asked]()
    while window and window[0].answer.done():
        answered.append(window.popleft())
    return answered
