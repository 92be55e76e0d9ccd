"""Average precision by hand, and what counts as found."""

import numpy as np
import pytest

from training.average_precision import Answer, average_precision, described, mean_average_precision

LEFT, RIGHT, BETWEEN = [0, 0, 10, 10], [20, 0, 30, 10], [4, 0, 14, 10]


def answer(found: list[tuple[str, float, list[int]]], true: list[tuple[str, list[int]]]) -> Answer:
    return Answer(
        [label for label, _, _ in found],
        [score for _, score, _ in found],
        np.array([box for _, _, box in found], float).reshape(-1, 4),
        [label for label, _ in true],
        np.array([box for _, box in true], float).reshape(-1, 4),
    )


def test_everything_found_at_once_is_one() -> None:
    one = answer([("a", 0.9, LEFT), ("b", 0.8, RIGHT)], [("b", RIGHT), ("a", LEFT)])
    assert mean_average_precision(["a", "b"], [one]) == (1.0, {"a": 1.0, "b": 1.0})


def test_an_object_that_is_found_twice_counts_once() -> None:
    twice = answer([("a", 0.9, LEFT), ("a", 0.8, LEFT), ("a", 0.7, RIGHT)], [("a", LEFT), ("a", RIGHT)])
    # Precision is 1 up to a recall of one half, then 2 of 3.
    assert average_precision("a", [twice], 0.5) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_pictures_are_ranked_together() -> None:
    wrong = answer([("a", 0.9, RIGHT)], [])
    right = answer([("a", 0.8, LEFT)], [("a", LEFT)])
    assert average_precision("a", [right, wrong], 0.5) == pytest.approx(0.5)


def test_too_small_an_overlap_is_wrong() -> None:
    shifted = answer([("a", 0.9, BETWEEN)], [("a", LEFT)])  # 60 of 140 in common
    assert average_precision("a", [shifted], 0.5) == 0.0
    assert average_precision("a", [shifted], 0.4) == 1.0


def test_a_label_that_is_never_found_is_nothing() -> None:
    mean, each = mean_average_precision(["a", "b"], [answer([("a", 0.9, LEFT)], [("a", LEFT), ("b", RIGHT)])])
    assert (mean, each["b"]) == (0.5, 0.0)
    assert described(mean, each) == "mAP@0.5 0.5000 (a 1.0000, b 0.0000)"
