"""Items of unequal shape in batches of one shape: in order, and each with its own failure."""

from collections.abc import Sequence

import pytest
import torch

from deployments.contract.errors import Internal, InvalidImage, OutOfMemory, ServingError
from deployments.engines.batches import in_batches


def of(side: int, value: float) -> torch.Tensor:
    return torch.full((side,), value)


def refused() -> ServingError:
    return Internal("refused")


class Sums:
    """Adds up each item, but for those whose first value is in `failing`; remembers its batches."""

    def __init__(self, failing: dict[float, Exception] | None = None) -> None:
        self.failing = failing or {}
        self.sizes: list[int] = []

    def __call__(self, items: Sequence[torch.Tensor]) -> list[float | ServingError]:
        self.sizes.append(len(items))
        for item in items:
            if (failure := self.failing.get(item[0].item())) is not None:
                raise failure
        return [item.sum().item() for item in items]


def test_items_of_one_shape_share_batches_and_the_order_stays() -> None:
    sums = Sums()
    items = [of(2, 1), of(3, 1), of(2, 2), of(2, 3), of(3, 2)]
    assert in_batches(items, 2, sums, refused) == [2, 3, 4, 6, 6]
    assert sums.sizes == [2, 1, 2]


def test_an_error_among_the_items_stays_in_its_place() -> None:
    no = InvalidImage("no")
    assert in_batches([of(1, 1), no, of(1, 2)], 8, Sums(), refused) == [1, no, 2]


def test_no_items_have_no_results() -> None:
    assert in_batches([], 8, Sums(), refused) == []


@pytest.mark.parametrize(
    ("failure", "kind"), [(RuntimeError("why"), Internal), (torch.OutOfMemoryError(), OutOfMemory)]
)
def test_a_batch_that_fails_is_halved_until_the_offender_stands_alone(
    failure: Exception, kind: type[ServingError]
) -> None:
    answers = in_batches([of(1, value) for value in range(7)], 8, Sums({4: failure}), refused)
    assert [n for n, answer in enumerate(answers) if isinstance(answer, kind)] == [4]
    assert [answer for answer in answers if not isinstance(answer, ServingError)] == [0, 1, 2, 3, 5, 6]
    assert "why" not in str(answers[4])
