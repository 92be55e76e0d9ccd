"""What waits while a batch runs is the next batch; an item fails alone."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from deployments.replica.batching import Batcher, BatchPolicy
from deployments.replica.calls import Stations, stations
from tests.support.until import turns, until


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


class Gated:
    """Computes ten times an item, once `gate` is set. Of an odd one with `refuses_odd` it makes an error."""

    def __init__(self, refuses_odd: bool = False) -> None:
        self.refuses_odd = refuses_odd
        self.gate = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, items: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(items))
        assert self.gate.wait(10)
        return [ValueError("odd") if self.refuses_odd and item % 2 else item * 10 for item in items]


async def test_what_waits_while_a_batch_runs_is_the_next_batch(executor: Executor) -> None:
    run = Gated()
    batcher: Batcher[int, int] = Batcher(lambda: BatchPolicy(run, executor, 1, 3))
    answers = [asyncio.create_task(batcher.submit(item)) for item in range(6)]
    await until(lambda: len(run.batches) == 1)
    late = asyncio.create_task(batcher.submit(6))
    run.gate.set()
    assert await asyncio.gather(*answers, late) == [0, 10, 20, 30, 40, 50, 60]
    assert [len(batch) for batch in run.batches] == [3, 3, 1]


async def test_one_that_waits_shares_its_batch_with_those_that_come_as_the_last_answers_are_made(
    executor: Executor,
) -> None:
    run = Gated()
    batcher: Batcher[int, int] = Batcher(lambda: BatchPolicy(run, executor, 1, 8))

    async def twice(item: int) -> None:
        await batcher.submit(item)
        await batcher.submit(item)

    together = [asyncio.create_task(twice(item)) for item in range(2)]
    await until(lambda: len(run.batches) == 1)
    late = asyncio.create_task(batcher.submit(2))
    await turns()
    run.gate.set()
    await asyncio.gather(*together, late)
    assert run.batches == [[0, 1], [2, 0, 1]]


async def test_an_item_that_comes_just_as_the_last_batch_ends_is_answered(executor: Executor) -> None:
    batcher: Batcher[int, int] = Batcher(lambda: BatchPolicy(list, executor, 1, 1))

    async with asyncio.timeout(10):
        for item in range(50):
            assert await batcher.submit(item) == item


async def test_a_call_is_told_the_largest_of_its_batches(executor: Executor) -> None:
    batcher: Batcher[int, int] = Batcher(lambda: BatchPolicy(list, executor, 1, 3))

    async def submitted(count: int) -> Stations | None:
        stations.set(Stations())
        await batcher.submit_all(range(count))
        return stations.get()

    four, one = await asyncio.gather(submitted(4), submitted(1))
    assert (four, one) == ({"batch_size": 3}, {"batch_size": 2})
    await batcher.submit(1)  # for no call


async def test_a_bad_item_fails_alone(executor: Executor) -> None:
    def run(items: Sequence[int]) -> list[int | Exception]:
        return [ValueError("odd") if item % 2 else item for item in items]

    batcher: Batcher[int, int] = Batcher(lambda: BatchPolicy(run, executor, 1, 8))
    answers = await asyncio.gather(*(batcher.submit(item) for item in range(4)), return_exceptions=True)
    assert [isinstance(answer, ValueError) for answer in answers] == [False, True, False, True]


async def test_a_failing_run_fails_its_batch_and_not_the_next(executor: Executor) -> None:
    def run(items: Sequence[int]) -> list[int]:
        if 0 in items:
            raise RuntimeError("down")
        return list(items)

    batcher: Batcher[int, int] = Batcher(lambda: BatchPolicy(run, executor, 1, 1))
    first, second = await asyncio.gather(batcher.submit(0), batcher.submit(1), return_exceptions=True)
    assert isinstance(first, RuntimeError)
    assert second == 1


async def test_an_item_cancelled_while_it_waits_is_not_computed(executor: Executor) -> None:
    run = Gated()
    batcher: Batcher[int, int] = Batcher(lambda: BatchPolicy(run, executor, 1, 1))
    first = asyncio.create_task(batcher.submit(1))
    await until(lambda: len(run.batches) == 1)
    cancelled, last = asyncio.create_task(batcher.submit(2)), asyncio.create_task(batcher.submit(3))
    await turns()
    cancelled.cancel()
    run.gate.set()
    assert [*await asyncio.gather(first, last)] == [10, 30]
    assert run.batches == [[1], [3]]


async def test_a_policy_may_choose_which_items_that_wait_are_the_next_batch(executor: Executor) -> None:
    batches = []

    def run(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        return [item * 10 for item in items]

    def choose(waiting: Sequence[int]) -> list[int]:
        """The largest one, and those of its kind."""
        first = max(range(len(waiting)), key=waiting.__getitem__)
        return [first, *(n for n, item in enumerate(waiting) if n != first and item % 2 == waiting[first] % 2)]

    batcher: Batcher[int, int] = Batcher(lambda: BatchPolicy(run, executor, 1, 99, choose))
    assert await batcher.submit_all([1, 4, 3, 2, 5]) == [10, 40, 30, 20, 50]
    assert batches == [[5, 1, 3], [4, 2]]
    assert await batcher.submit_all([]) == []


async def test_of_items_that_came_together_none_is_computed_once_one_has_failed(executor: Executor) -> None:
    run = Gated(refuses_odd=True)
    batcher: Batcher[int, int] = Batcher(lambda: BatchPolicy(run, executor, 1, 2))
    together, alone = asyncio.create_task(batcher.submit_all([2, 1, 4, 6])), asyncio.create_task(batcher.submit(8))
    await until(lambda: len(run.batches) == 1)
    run.gate.set()
    with pytest.raises(ValueError, match="odd"):
        await together
    assert await alone == 80
    assert run.batches[0] == [2, 1]
    assert len(run.batches) <= 3  # the next one may have begun meanwhile


async def test_items_that_came_together_are_given_up_together(executor: Executor) -> None:
    run = Gated()
    batcher: Batcher[int, int] = Batcher(lambda: BatchPolicy(run, executor, 1, 1))
    together = asyncio.create_task(batcher.submit_all([1, 2, 3]))
    await until(lambda: len(run.batches) == 1)
    together.cancel()
    await turns()
    last = asyncio.create_task(batcher.submit(4))
    run.gate.set()
    assert await last == 40
    assert run.batches == [[1], [4]]


async def test_as_many_batches_run_at_once_as_the_policy_allows() -> None:
    both_there, batches = threading.Barrier(2), []

    def run(items: Sequence[int]) -> list[int]:
        both_there.wait(10)
        batches.append(list(items))
        return list(items)

    with ThreadPoolExecutor(4) as executor:
        batcher: Batcher[int, int] = Batcher(lambda: BatchPolicy(run, executor, 2, 2))
        assert await asyncio.gather(*(batcher.submit(item) for item in range(8))) == list(range(8))
    assert sorted(batches) == [[0, 1], [2, 3], [4, 5], [6, 7]]


async def test_a_batch_that_does_not_end_is_seen_and_an_idle_batcher_is_not_busy(executor: Executor) -> None:
    run = Gated()
    batcher: Batcher[int, int] = Batcher(lambda: BatchPolicy(run, executor, 1, 1))
    assert batcher.busy_s == 0
    answer = asyncio.create_task(batcher.submit(1))
    await until(lambda: batcher.busy_s > 0)
    before = batcher.busy_s
    await until(lambda: batcher.busy_s > before)
    run.gate.set()
    await answer
    assert batcher.busy_s == 0
