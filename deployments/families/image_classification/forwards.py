"""The threads in which the forwards of all image models of a process run, and which of them run beside which."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from deployments.replica.batching import Pace

if TYPE_CHECKING:
    import numpy as np

    from deployments.engines.vision.engine import ImageClassificationEngine
    from deployments.engines.vision.inputs import Item

Result = TypeVar("Result")


class Workers(ThreadPoolExecutor):
    """Threads, and whether there is anything for them to do."""

    def __init__(self, count: int, name: str) -> None:
        super().__init__(count, name)
        self._under_way: set[Future[Any]] = set()

    @property
    def busy(self) -> bool:
        return bool(self._under_way)

    def submit(self, work: Callable[..., Result], /, *arguments: Any, **options: Any) -> "Future[Result]":
        future = super().submit(work, *arguments, **options)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future


class Forwards:
    """A forward that has all cores runs in one thread, whose its workers are. Of those that have one core each there is
    one more than cores: it decodes while the others compute."""

    def __init__(self, cores: int) -> None:
        self.on_all_cores = Workers(1, "forward")
        self.side_by_side = Workers(cores + 1, "forward")

    def pace(
        self, engine: "ImageClassificationEngine", classify: Callable[..., Any], limit: int
    ) -> "Pace[Item | bytes, np.ndarray]":
        """How the next batch of `engine` runs, of at most `limit` pictures. `classify`: the engine's, or around it."""
        batch_size = min(limit, engine.batch_size)
        if engine.at_once == 1:
            return Pace(classify, self.on_all_cores, 1, batch_size)
        if not (self.on_all_cores.busy or self.side_by_side.busy):
            return Pace(partial(classify, exclusive=True), self.on_all_cores, engine.at_once + 1, 1)
        return Pace(classify, self.side_by_side, engine.at_once + 1, batch_size)

    def close(self) -> None:
        for workers in (self.on_all_cores, self.side_by_side):
            workers.shutdown()
