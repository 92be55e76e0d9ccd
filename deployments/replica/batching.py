"""Gathers the items that wait while batches run, and runs them as the next ones. Knows nothing of models."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

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


class Batcher(Generic[Item, Result]):
    """Batches of what is ready: a lone item never waits for others. `policy` is asked before each batch."""

    def __init__(self, policy: Callable[[], BatchPolicy[Item, Result]]) -> None:
        self.policy = policy
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._running: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Result:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if len(self._running) < self.policy().at_once:
            self._running.add(asyncio.create_task(self._drain()))
        return await future

    async def _drain(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            while self._waiting:
                policy = self.policy()
                if len(self._running) > policy.at_once:
                    break  # the others go on
                # An item that was cancelled while it waited takes no place in the batch.
                wanted = [(item, future) for item, future in self._waiting if not future.done()]
                batch, self._waiting = wanted[: policy.batch_size], wanted[policy.batch_size :]
                if batch:
                    await self._run(batch, policy)
        finally:
            # Not in a done callback: an item submitted before it ran would see a task that takes no more items.
            self._running.discard(task)

    async def _run(self, batch: list[tuple[Item, "asyncio.Future[Result]"]], policy: BatchPolicy[Item, Result]) -> None:
        items = [item for item, _ in batch]
        results: Sequence[Result | Exception]
        try:
            results = await asyncio.get_running_loop().run_in_executor(policy.executor, policy.run, items)
        except Exception as failure:
            results = [failure] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
