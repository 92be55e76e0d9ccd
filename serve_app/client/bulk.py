"""Many requests, in order, a bounded number of them at once. What is refused for the moment is asked again."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
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
