"""Numbers of an answer are the shortest decimals that read back as the same float32, one by one or all at once."""

import sys

import numpy as np
import pytest

from deployments.engines.decimals import FEW, shortest

EDGES = [0.1, -0.0, 0.0, 1.0, 0.5, 16777216.0, 340282.34, 1e-7, 0.00012345678, 3.4028235e38, 1.1754944e-38, 1e-45]


def random(kind: str) -> np.ndarray:
    source = np.random.default_rng(1)
    if kind == "values of vectors":
        return source.normal(0, 0.05, 5000)
    if kind == "any size":
        return np.exp(source.uniform(-80, 80, 5000))
    return np.array(EDGES * 11)


@pytest.mark.parametrize("kind", ["values of vectors", "any size", "edges"])
def test_many_values_are_written_as_each_is_alone(kind: str) -> None:
    values = random(kind).astype(np.float32)
    assert len(values) > FEW
    assert list(map(repr, shortest(values))) == [repr(float(str(value))) for value in values]


def test_lists_lie_as_the_values_lie() -> None:
    assert shortest(np.array([[0.1, 0.2], [0.3, 0.25]])) == [[0.1, 0.2], [0.3, 0.25]]
    assert shortest(np.zeros((0, 4))) == []
    assert shortest(np.full((9, 9), 0.7, np.float32)) == [[0.7] * 9] * 9


def test_a_few_values_are_not_worth_the_arrays_of_many() -> None:
    """Each call of numpy takes as long as writing a value: an answer of five labels has five."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        found = shortest(np.array([0.9, 0.05, 0.03, 0.01, 0.01]))
    finally:
        sys.setprofile(None)
    assert found == [0.9, 0.05, 0.03, 0.01, 0.01]
    assert calls < 20
