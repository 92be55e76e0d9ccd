"""The threads in which the forwards of all image models of a process run, and which forwards run side by side."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from deployments.contract.errors import ServingError
from deployments.replica.batching import BatchPolicy

if TYPE_CHECKING:
    from deployments.engines.vision.inputs import Item

Classify = Callable[..., list[np.ndarray | ServingError]]
"""ImageClassificationEngine.classify."""


class CountingExecutor(ThreadPoolExecutor):
    """Knows whether any work is under way."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, "forward")
        self._under_way: set[Future[Any]] = set()

    @property
    def busy(self) -> bool:
        return bool(self._under_way)

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        future = super().submit(work, *arguments, **options)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future


class ForwardExecutors:
    """Forwards that compute on all cores run one after another, in one thread. Forwards that compute on one core each
    run side by side, in one thread more than there are cores: it decodes while the others compute."""

    def __init__(self, cores: int) -> None:
        self._on_all_cores = CountingExecutor(1)
        self._side_by_side = CountingExecutor(cores + 1)

    def policy(self, classify: Classify, at_once: int, batch_size: int) -> BatchPolicy["Item | bytes", np.ndarray]:
        """How the next batch runs, of at most `batch_size` images. `classify`: the engine's, or around it."""
        if at_once == 1:
            return BatchPolicy(classify, self._on_all_cores, 1, batch_size)
        if not (self._on_all_cores.busy or self._side_by_side.busy):
            return BatchPolicy(partial(classify, exclusive=True), self._on_all_cores, at_once + 1, 1)
        return BatchPolicy(classify, self._side_by_side, at_once + 1, batch_size)

    def close(self) -> None:
        for executor in (self._on_all_cores, self._side_by_side):
            executor.shutdown()
