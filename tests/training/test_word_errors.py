"""The word errors of a text."""

import pytest

from training.word_errors import word_errors


@pytest.mark.parametrize(
    ("heard", "said", "errors"),
    [
        ("one two", "one two", 0),
        ("", "one two", 2),
        ("one", "", 1),
        ("one three", "one two", 1),
        ("one one two", "one two", 1),
        ("two three four", "one two three", 2),
    ],
)
def test_the_fewest_words_that_differ(heard: str, said: str, errors: int) -> None:
    assert word_errors(heard, said) == errors
