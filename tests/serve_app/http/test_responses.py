"""Statuses and headers of responses, and whose shape an error has."""

import pytest
from starlette.responses import PlainTextResponse, Response

from deployments.contract import wire
from deployments.contract.errors import ERRORS, Overloaded, Unavailable
from deployments.contract.types import Error, TextGenerationResult
from serve_app.http.responses import error_response, rendered


@pytest.mark.parametrize("code", ERRORS)
def test_each_code_has_its_status(code: str) -> None:
    assert rendered(Error(message="m", code=code), wire.JSON).status_code == ERRORS[code].status


def test_a_result_has_status_200_and_no_retry_after() -> None:
    response = rendered(TextGenerationResult(generated_text="t"), wire.MSGPACK)
    assert (response.status_code, response.media_type) == (200, wire.MSGPACK)
    assert "retry-after" not in response.headers


def test_retry_after_is_in_whole_seconds() -> None:
    failure = Overloaded("busy")
    assert rendered(Error.of(failure), wire.JSON).headers["retry-after"] == "1"
    failure.retry_after_ms = 1200
    assert rendered(Error.of(failure), wire.JSON).headers["retry-after"] == "2"


@pytest.mark.parametrize(("path", "text"), [("/v1", "theirs"), ("/v1/x", "theirs"), ("/v10", ""), ("/infer", "")])
def test_an_error_below_a_prefix_has_that_protocols_shape(path: str, text: str) -> None:
    def theirs(error: Error) -> Response:
        return PlainTextResponse("theirs", 418)

    response = error_response(path, Error.of(Unavailable("lost")), {"/v1": theirs})
    assert response.status_code == (418 if text else 503)
