"""Turns and memory that requests share."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from deployments.contract.errors import Cancelled
from deployments.families.speech_to_text.flow import AudioMemory, LongWork, Together, Turns
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
        async with memory.reserve(size):
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
    async with memory.reserve(90) as reservation:
        waiting = asyncio.create_task(memory.reserve(50).__aenter__())
        leaving = asyncio.create_task(memory.reserve(50).__aenter__())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await reservation.resize(10)
        await waiting
        assert memory.held_bytes == 60
    assert memory.held_bytes == 50


class Steps:
    """Jobs of so many steps. Those named in `bad` fail. The first beginning waits until `may_begin`."""

    def __init__(self) -> None:
        self.shared: list[set[str]] = []
        self.bad: set[str] = set()
        self.may_begin = threading.Event()

    def begin(self, job: "Counting") -> None:
        assert self.may_begin.wait(60)
        if job.name == "broken":
            raise ValueError(job.name)

    def step(self, jobs: Sequence["Counting"]) -> None:
        if self.bad & {job.name for job in jobs}:
            raise ValueError("step")
        self.shared.append({job.name for job in jobs})
        for job in jobs:
            job.left -= 1
            job.done = job.left == 0


class Counting:
    def __init__(self, name: str, left: int) -> None:
        self.name, self.left, self.done = name, left, False


def test_jobs_share_steps_and_one_that_waits_begins_before_the_next() -> None:
    steps = Steps()
    together = Together(steps.begin, steps.step, 2, Turns())
    futures = [together.submit(Counting(name, left)) for name, left in (("a", 1), ("b", 3), ("c", 2))]
    steps.may_begin.set()
    for future in futures:
        future.result(60)
    assert steps.shared == [{"a", "b"}, {"b", "c"}, {"b", "c"}]
    together.submit(Counting("later", 1)).result(60)  # after its thread has ended


def test_a_job_that_fails_fails_alone_and_one_that_is_cancelled_is_left_out() -> None:
    steps = Steps()
    steps.bad = {"bad"}
    together = Together(steps.begin, steps.step, 8, Turns())
    jobs = {name: Counting(name, 2) for name in ("good", "broken", "bad", "given up")}
    futures = {name: together.submit(job) for name, job in jobs.items()}
    assert futures["given up"].cancel()
    steps.may_begin.set()
    futures["good"].result(60)
    for name, message in (("broken", "broken"), ("bad", "step")):
        with pytest.raises(ValueError, match=message):
            futures[name].result(60)
    assert jobs["given up"].left == 2
