"""Waits for conditions that have no event of their own. Every wait ends: the condition holds, or the test fails."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

TURNS_AT_ONCE = 200
"""How often the event loop turns before a wait begins to leave the processor to threads and processes."""


async def until(condition: Callable[[], T], timeout_s: float = 10) -> T:
    """The condition's first true value. Other tasks run meanwhile. Raises TimeoutError after `timeout_s`."""
    turns = 0
    async with asyncio.timeout(timeout_s):
        while not (value := condition()):
            await asyncio.sleep(0 if turns < TURNS_AT_ONCE else 0.001)
            turns += 1
    return value


async def turns(count: int = 1) -> None:
    """Lets every task that can run do so, `count` times: for claims that something does *not* happen."""
    for _ in range(count):
        await asyncio.sleep(0)


def wait_until(
    condition: Callable[[], T], what: str = "the condition", timeout_s: float = 60, every_s: float = 0.05
) -> T:
    """The condition's first true value, for what threads and other processes do. Fails after `timeout_s`."""
    give_up = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < give_up, f"{what}: not within {timeout_s:g} s"
        time.sleep(every_s)
    return value
