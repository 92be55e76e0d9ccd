"""Calls share the lock, and one holds it exclusively."""

import asyncio

from deployments.system.shared_lock import SharedLock
from tests.support.until import turns, until


async def test_an_exclusive_call_waits_for_those_that_share_and_later_ones_wait_for_it() -> None:
    lock, events = SharedLock(), list[str]()
    lock.shared += 1

    async def alone() -> None:
        async with lock.held_exclusively():
            events.append("alone")
            await turns(5)
            events.append("left")

    async def comes() -> None:
        await lock.wait_until_shared()
        events.append("came")

    exclusive = [asyncio.create_task(alone()) for _ in range(2)]
    await until(lambda: lock.exclusive)
    coming = asyncio.create_task(comes())
    await turns(10)
    assert events == []
    lock.shared -= 1
    lock.shared_released()
    await asyncio.gather(coming, *exclusive)
    assert events == ["alone", "left", "alone", "left", "came"]


async def test_an_exclusive_call_that_is_cancelled_while_it_waits_delays_no_other() -> None:
    lock = SharedLock()
    lock.shared += 1

    async def alone() -> None:
        async with lock.held_exclusively():
            raise AssertionError("another call shares it")

    cancelled = asyncio.create_task(alone())
    await until(lambda: lock.exclusive)
    coming = asyncio.create_task(lock.wait_until_shared())
    cancelled.cancel()
    await coming
    assert not lock.exclusive
