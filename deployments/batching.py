"""Gathers the items that wait while a batch runs, and runs them as the next batch."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Batches of what is ready: a lone item never waits for company.

    `run` is called in `executor`, one batch at a time, and gives one result or exception for each item.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        executor: Executor,
        max_batch_size: Callable[[], int],
    ) -> None:
        self.run = run
        self.executor = executor
        self.max_batch_size = max_batch_size
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._running: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._running is None:
            self._running = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        try:
            while self._waiting:
                # Whoever left while waiting takes no place in the batch.
                wanted = [(item, future) for item, future in self._waiting if not future.done()]
                size = self.max_batch_size()
                batch, self._waiting = wanted[:size], wanted[size:]
                if batch:
                    await self._run(batch)
        finally:
            # At once, not when the task is found done: who submits in between would wait for nobody.
            self._running = None

    async def _run(self, batch: list[tuple[Item, "asyncio.Future[Result]"]]) -> None:
        items = [item for item, _ in batch]
        results: Sequence[Result | Exception]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self.executor, self.run, items)
        except Exception as failure:
            results = [failure] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
