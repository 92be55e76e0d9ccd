"""Every exception becomes an `Error`; only the log has the reason of an unexpected one."""

import logging

import pytest

from deployments.contract.errors import ModelNotFound
from deployments.contract.failures import error_of


def test_a_serving_error_keeps_its_code_and_message() -> None:
    answer = error_of(ModelNotFound("no model 'm'"), "r")
    assert (answer.code, answer.message, answer.retryable, answer.request_id) == (
        "model_not_found",
        "no model 'm'",
        False,
        "r",
    )


def test_a_timeout_is_a_missed_deadline() -> None:
    assert error_of(TimeoutError(), "r").code == "deadline_exceeded"


def test_the_reason_of_an_unexpected_error_is_only_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "model_runtime"):
        answer = error_of(ZeroDivisionError("secret"), "r-7")
    assert answer.code == "internal"
    assert "secret" not in answer.message
    assert "r-7" in caplog.text
    assert "ZeroDivisionError: secret" in caplog.text
