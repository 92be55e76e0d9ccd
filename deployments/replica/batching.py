"""Gathers the items that wait while batches run, and runs them as the next ones. Knows nothing of models."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

from deployments.replica.calls import Stations, stations

TURNS = 2
"""Of the event loop, between a batch and the next where that would not be full. In the first the answers are made and
calls are read that have arrived, in the second they are sent and join. Without them batches are smaller, and each
costs a frame to the ingress and a change of threads."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class BatchPolicy(Generic[Item, Result]):
    """How batches are run at the moment: by what, where, how many at once, of how many items at most."""

    run: Callable[[Sequence[Item]], Sequence[Result | Exception]]
    """Gives one result or exception for each item of a batch."""
    executor: Executor
    at_once: int
    batch_size: int
    choose: Callable[[Sequence[Item]], Sequence[int]] | None = None
    """Which of the items that wait are the next batch; without it those that came first."""


class Batcher(Generic[Item, Result]):
    """Batches of what is ready: a lone item never waits for others. `policy` is asked before each batch, and `ran`
    told its size."""

    def __init__(
        self, policy: Callable[[], BatchPolicy[Item, Result]], ran: Callable[[int], None] = lambda size: None
    ) -> None:
        self.policy = policy
        self.ran = ran
        self._waiting: list[tuple[Item, asyncio.Future[Result], Stations | None]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._since: dict[int, float] = {}

    @property
    def busy_s(self) -> float:
        """For how long the oldest batch has been under way."""
        return time.monotonic() - min(self._since.values()) if self._since else 0.0

    async def submit(self, item: Item) -> Result:
        [future] = self._enqueued([item])
        return await future

    async def submit_all(self, items: Sequence[Item]) -> list[Result]:
        """The results in order. Raises what the first one to fail raises, and the others are given up."""
        futures = self._enqueued(items)
        try:
            return await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()

    def _enqueued(self, items: Sequence[Item]) -> "list[asyncio.Future[Result]]":
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Result]] = [loop.create_future() for _ in items]
        passed = stations.get()
        self._waiting += [(item, future, passed) for item, future in zip(items, futures, strict=True)]
        if len(self._running) < self.policy().at_once:
            self._running.add(asyncio.create_task(self._drain()))
        return futures

    async def _drain(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            while self._waiting:
                policy = self.policy()
                if len(self._running) > policy.at_once:
                    break  # the others go on
                # An item that was cancelled while it waited takes no place in the batch.
                wanted = [one for one in self._waiting if not one[1].done()]
                chosen = _chosen([item for item, *_ in wanted], policy)
                batch = [wanted[index] for index in chosen]
                self._waiting = [one for index, one in enumerate(wanted) if index not in chosen]
                if batch:
                    await self._run(batch, policy)
                if len(self._waiting) < policy.batch_size:
                    for _ in range(TURNS):
                        await asyncio.sleep(0)
        finally:
            # Not in a done callback: an item submitted before it ran would see a task that takes no more items.
            self._running.discard(task)

    async def _run(
        self,
        batch: "list[tuple[Item, asyncio.Future[Result], Stations | None]]",
        policy: BatchPolicy[Item, Result],
    ) -> None:
        items = [item for item, *_ in batch]
        self.ran(len(items))
        for *_, passed in batch:
            if passed is not None:
                passed["batch_size"] = max(len(items), passed.get("batch_size", 0))
        results: Sequence[Result | Exception]
        self._since[id(batch)] = time.monotonic()
        try:
            results = await asyncio.get_running_loop().run_in_executor(policy.executor, policy.run, items)
        except Exception as failure:
            results = [failure] * len(batch)
        finally:
            del self._since[id(batch)]
        for (_, future, _), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


def _chosen(items: Sequence[Item], policy: BatchPolicy[Item, Result]) -> "dict[int, None]":
    """The indices of the next batch, in its order."""
    if policy.choose is None or not items:
        return dict.fromkeys(range(min(policy.batch_size, len(items))))
    return dict.fromkeys(policy.choose(items))
