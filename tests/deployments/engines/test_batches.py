"""Items of unequal shape in batches of one shape: in order, and each with its own failure."""

from collections.abc import Sequence

import pytest
import torch

from deployments.contract.errors import Internal, InvalidImage, OutOfMemory, ServingError
from deployments.engines.batches import Fitted, in_batches


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
    assert in_batches(items, 2, sums, refused, Fitted()) == [2, 3, 4, 6, 6]
    assert sums.sizes == [2, 1, 2]


def test_an_error_among_the_items_stays_in_its_place() -> None:
    no = InvalidImage("no")
    assert in_batches([of(1, 1), no, of(1, 2)], 8, Sums(), refused, Fitted()) == [1, no, 2]


def test_no_items_have_no_results() -> None:
    assert in_batches([], 8, Sums(), refused, Fitted()) == []


@pytest.mark.parametrize(
    ("failure", "kind"), [(RuntimeError("why"), Internal), (torch.OutOfMemoryError(), OutOfMemory)]
)
def test_a_batch_that_fails_is_halved_until_the_offender_stands_alone(
    failure: Exception, kind: type[ServingError]
) -> None:
    answers = in_batches([of(1, value) for value in range(7)], 8, Sums({4: failure}), refused, Fitted())
    assert [n for n, answer in enumerate(answers) if isinstance(answer, kind)] == [4]
    assert [answer for answer in answers if not isinstance(answer, ServingError)] == [0, 1, 2, 3, 5, 6]
    assert "why" not in str(answers[4])


@pytest.mark.parametrize(
    "failure", [torch.OutOfMemoryError(), MemoryError(), RuntimeError("[CPU] std::bad_alloc: failed to allocate")]
)
def test_a_batch_that_does_not_fit_is_split_answered_and_not_made_again(failure: Exception) -> None:
    sizes: list[int] = []

    def three_fit(items: Sequence[torch.Tensor]) -> list[float | ServingError]:
        sizes.append(len(items))
        if len(items) * len(items[0]) > 3:
            raise failure
        return [item.sum().item() for item in items]

    fitted, items = Fitted(), [of(1, value) for value in range(8)]
    assert in_batches(items, 8, three_fit, refused, fitted) == list(range(8))
    sizes.clear()
    assert in_batches(items, 8, three_fit, refused, fitted) == list(range(8))
    assert sizes == [2, 2, 2, 2]
    answers = in_batches([of(4, 1.0), of(1, 1.0)], 8, three_fit, refused, fitted)  # Others have sizes of their own.
    assert (isinstance(answers[0], OutOfMemory), answers[1]) == (True, 1.0)


def test_what_fails_for_another_reason_makes_no_batch_smaller() -> None:
    fitted = Fitted()
    in_batches([of(1, value) for value in range(4)], 4, Sums({2: RuntimeError("why")}), refused, fitted)
    assert fitted.most(of(1, 0).shape, 4) == 4
