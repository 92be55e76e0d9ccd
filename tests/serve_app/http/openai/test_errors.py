"""Errors in OpenAI's shape."""

import json

import pytest

from deployments.contract.errors import ERRORS, InvalidRequest, ModelNotFound, Overloaded, PromptTooLong, Unavailable
from deployments.contract.types import Error
from serve_app.http.openai.errors import error_object, render_error


@pytest.mark.parametrize("code", ERRORS)
def test_every_code_has_the_four_fields(code: str) -> None:
    body = json.loads(bytes(render_error(Error(message="m", code=code)).body))
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}


def test_the_parameter_is_named() -> None:
    assert error_object(Error.of(InvalidRequest("m")), "n")["error"] == {
        "message": "m",
        "type": "invalid_request_error",
        "param": "n",
        "code": "invalid_request",
    }
    missing = error_object(Error.of(ModelNotFound("m")))["error"]
    assert isinstance(missing, dict)
    assert missing["param"] == "model"


def test_a_prompt_that_is_too_long_has_openais_status_and_code() -> None:
    response = render_error(Error.of(PromptTooLong("m")))
    assert response.status_code == 400
    assert json.loads(bytes(response.body))["error"]["code"] == "context_length_exceeded"


def test_the_headers_say_whether_and_when_to_retry() -> None:
    failure = Overloaded("busy")
    failure.retry_after_ms = 1200
    headers = render_error(Error.of(failure)).headers
    assert (headers["x-should-retry"], headers["retry-after"], headers["retry-after-ms"]) == ("true", "2", "1200")
    assert render_error(Error.of(InvalidRequest("m"))).headers["x-should-retry"] == "false"
    for without_time in (Overloaded("m"), Unavailable("m")):
        assert render_error(Error.of(without_time)).headers["retry-after"] == "1"
