"""Runs items of unequal shape in batches of one shape, so that one item's failure is its own."""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch

from deployments.contract.errors import OutOfMemory, ServingError

logger = logging.getLogger(__name__)


class Shaped(Protocol):
    @property
    def shape(self) -> Any: ...


Input = TypeVar("Input", bound=Shaped)
Result = TypeVar("Result")


def in_batches(
    items: Sequence[Input | ServingError],
    batch_size: int,
    compute: Callable[[Sequence[Input]], Sequence[Result | ServingError]],
    fault: Callable[[], ServingError],
) -> list[Result | ServingError]:
    """A result or an error for each item, in order; an error among the items stays one.

    `compute` takes at most `batch_size` items of one shape. A batch for which it raises is halved until one item is at
    fault: that one's answer is `fault`, or OutOfMemory.
    """
    answers: dict[int, Result | ServingError] = {}
    groups: dict[Any, list[tuple[int, Input]]] = defaultdict(list)
    for index, item in enumerate(items):
        if isinstance(item, ServingError):
            answers[index] = item
        else:
            groups[item.shape].append((index, item))
    for group in groups.values():
        for start in range(0, len(group), batch_size):
            indices, batch = zip(*group[start : start + batch_size], strict=True)
            answers.update(zip(indices, _halving(batch, compute, fault), strict=True))
    return [answers[index] for index in range(len(items))]


def _halving(
    items: Sequence[Input],
    compute: Callable[[Sequence[Input]], Sequence[Result | ServingError]],
    fault: Callable[[], ServingError],
) -> list[Result | ServingError]:
    try:
        return list(compute(items))
    except Exception as error:
        if len(items) > 1:
            half = len(items) // 2
            return _halving(items[:half], compute, fault) + _halving(items[half:], compute, fault)
        logger.exception("the forward failed for one item")
        if isinstance(error, torch.OutOfMemoryError):
            return [OutOfMemory("the device has no memory left for this item")]
        return [fault()]
