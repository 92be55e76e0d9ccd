"""Turns and memory that requests share."""

import asyncio
import threading

import pytest

from deployments.contract.errors import Cancelled
from deployments.families.speech_to_text.flow import AudioMemory, LongWork, Turns
from tests.support.until import until


async def test_long_work_lets_those_go_first_that_wait() -> None:
    turns, order = Turns(), list[str]()

    def short() -> None:
        with turns:
            order.append("short")

    with turns:
        thread = threading.Thread(target=short)
        thread.start()
        await until(lambda: len(turns._order) == 2)
        order.append("long")
        LongWork(turns).pause()
        order.append("long again")
    thread.join()
    assert order == ["long", "short", "long again"]


def test_work_whose_request_is_over_ends() -> None:
    turns = Turns()
    work = LongWork(turns)
    with turns:
        work.check()
        work.pause()
        work.over.set()
        with pytest.raises(Cancelled):
            work.check()
        with pytest.raises(Cancelled):
            work.pause()
    with turns:
        pass  # it is free again


async def test_what_does_not_fit_waits_and_what_is_larger_than_all_goes_alone() -> None:
    memory, order = AudioMemory(100), list[str]()
    may_end = {name: asyncio.Event() for name in ("large", "small", "next")}

    async def hold(name: str, size: int) -> None:
        async with memory.claim(size):
            order.append(name)
            await may_end[name].wait()

    tasks = [asyncio.create_task(hold(name, size)) for name, size in (("large", 500), ("small", 40), ("next", 80))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert order == ["large"]
    may_end["large"].set()
    await tasks[0]
    while len(order) < 2:
        await asyncio.sleep(0)
    assert order == ["large", "small"]
    assert memory.held_bytes == 40
    may_end["small"].set()
    may_end["next"].set()
    await asyncio.gather(*tasks)
    assert memory.held_bytes == 0


async def test_a_claim_is_what_it_turns_out_to_be_and_who_leaves_takes_nothing() -> None:
    memory = AudioMemory(100)
    async with memory.claim(90) as claim:
        waiting = asyncio.create_task(memory.claim(50).__aenter__())
        leaving = asyncio.create_task(memory.claim(50).__aenter__())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await claim.settle(10)
        await waiting
        assert memory.held_bytes == 60
    assert memory.held_bytes == 50
