"""Runs items of unequal shape in batches of one shape, so that one item's failure is its own."""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from deployments.contract.errors import OutOfMemory, ServingError
from deployments.engines.errors import wants_memory

logger = logging.getLogger(__name__)

MOST_SHAPES = 256
"""That are known at a time: pictures may have any size."""


class Shaped(Protocol):
    @property
    def shape(self) -> Any: ...


Input = TypeVar("Input", bound=Shaped)
Result = TypeVar("Result")


class Fitted:
    """The largest batches of a model that fit into memory, by shape, where a larger one did not. Since its load."""

    def __init__(self) -> None:
        self._most: dict[Any, int] = {}

    def most(self, shape: Any, batch_size: int) -> int:
        """Items of this shape, `batch_size` at most."""
        return min(self._most.get(shape, batch_size), batch_size)

    def exceeded(self, batch: Sequence[Shaped]) -> None:
        """Memory was too small for the batch, of two items or more of one shape."""
        shape = batch[0].shape
        if len(self._most) >= MOST_SHAPES:
            self._most.clear()
        self._most[shape] = self.most(shape, len(batch) // 2)
        logger.warning(
            "%d items of shape %s do not fit into memory: %d from now on", len(batch), shape, self._most[shape]
        )


def in_batches(
    items: Sequence[Input | ServingError],
    batch_size: int,
    compute: Callable[[Sequence[Input]], Sequence[Result | ServingError]],
    fault: Callable[[], ServingError],
    fitted: Fitted,
) -> list[Result | ServingError]:
    """A result or an error for each item, in order; an error among the items stays one.

    `compute` takes at most `batch_size` items of one shape, fewer where so many did not fit into memory. A batch for
    which it raises is halved until one item is at fault: that one's answer is `fault`, or OutOfMemory.
    """
    answers: dict[int, Result | ServingError] = {}
    groups: dict[Any, list[tuple[int, Input]]] = defaultdict(list)
    for index, item in enumerate(items):
        if isinstance(item, ServingError):
            answers[index] = item
        else:
            groups[item.shape].append((index, item))
    for shape, group in groups.items():
        start = 0
        while start < len(group):  # What is learned meanwhile holds for the next batch.
            indices, batch = zip(*group[start : start + fitted.most(shape, batch_size)], strict=True)
            answers.update(zip(indices, _halving(batch, compute, fault, fitted), strict=True))
            start += len(batch)
    return [answers[index] for index in range(len(items))]


def _halving(
    items: Sequence[Input],
    compute: Callable[[Sequence[Input]], Sequence[Result | ServingError]],
    fault: Callable[[], ServingError],
    fitted: Fitted,
) -> list[Result | ServingError]:
    try:
        return list(compute(items))
    except Exception as error:
        if len(items) > 1:
            if wants_memory(error):
                fitted.exceeded(items)
            half = len(items) // 2
            return _halving(items[:half], compute, fault, fitted) + _halving(items[half:], compute, fault, fitted)
        logger.exception("the forward failed for one item")
        if wants_memory(error):
            return [OutOfMemory("the device has no memory left for this item")]
        return [fault()]
