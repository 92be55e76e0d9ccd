"""Errors keep their code and message through pickling; what a client sent is quoted safely."""

import pickle

import pytest

from deployments.contract.errors import ERRORS, Overloaded, ServingError, quoted


@pytest.mark.parametrize("kind", ERRORS.values(), ids=ERRORS)
def test_an_error_survives_pickling(kind: type[ServingError]) -> None:
    failure = kind("why")
    failure.retry_after_ms = 5
    copy = pickle.loads(pickle.dumps(failure))
    assert (type(copy), copy.message, copy.retry_after_ms) == (kind, "why", 5)


def test_each_code_has_one_class() -> None:
    assert len(ERRORS) == len(ServingError.__subclasses__())
    assert all(400 <= kind.status < 600 for kind in ERRORS.values())


def test_a_copy_to_raise_again_has_no_traceback() -> None:
    failure = Overloaded("full")
    failure.retry_after_ms = 7
    with pytest.raises(Overloaded):
        raise failure
    again = failure.again()
    assert (type(again), again.message, again.retry_after_ms, again.__traceback__) == (Overloaded, "full", 7, None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("m", "'m'"),
        ("a\nb\x00", r"'a\nb\x00'"),
        ("\ud800", r"'\ud800'"),
        ("x" * 65, f"'{'x' * 63}…'"),
        ("é🦜", "'é🦜'"),
    ],
)
def test_a_clients_text_is_short_and_without_control_characters(text: str, shown: str) -> None:
    assert quoted(text) == shown
