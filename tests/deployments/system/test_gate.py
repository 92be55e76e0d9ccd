"""Calls together, and one alone."""

import asyncio

from deployments.system.gate import Gate
from tests.support.until import turns, until


async def test_one_alone_waits_for_those_inside_and_holds_those_that_come() -> None:
    gate, events = Gate(), list[str]()
    gate.inside += 1

    async def alone() -> None:
        async with gate.alone():
            events.append("alone")
            await turns(5)
            events.append("left")

    async def comes() -> None:
        await gate.opened()
        events.append("came")

    loners = [asyncio.create_task(alone()) for _ in range(2)]
    await until(lambda: gate.loners)
    coming = asyncio.create_task(comes())
    await turns(10)
    assert events == []
    gate.inside -= 1
    gate.left()
    await asyncio.gather(coming, *loners)
    assert events == ["alone", "left", "alone", "left", "came"]


async def test_one_that_gives_up_waiting_to_be_alone_holds_nobody() -> None:
    gate = Gate()
    gate.inside += 1

    async def alone() -> None:
        async with gate.alone():
            raise AssertionError("another one is inside")

    loner = asyncio.create_task(alone())
    await until(lambda: gate.loners)
    coming = asyncio.create_task(gate.opened())
    loner.cancel()
    await coming
    assert not gate.loners
