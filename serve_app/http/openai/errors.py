"""Errors in OpenAI's shape, from which its clients raise their typed exceptions."""

from starlette.responses import Response

from deployments.contract.errors import ERRORS, Internal, InvalidRequest
from deployments.contract.types import Error
from serve_app.http.responses import headers_of
from serve_app.http.sse import data

# Errors for which OpenAI has another status and code than the contract.
_OPENAI_CODES = {"prompt_too_long": (400, "context_length_exceeded")}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class InvalidField(InvalidRequest):
    """A field of the body that is invalid or not supported. `param` names it."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def error_object(error: Error, param: str | None = None) -> dict[str, object]:
    """`{"error": {message, type, param, code}}`."""
    status, code = _status_and_code(error)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    if error.code == "model_not_found":
        param = "model"
    return {"error": {"message": error.message, "type": kind, "param": param, "code": code}}


def render_error(error: Error, param: str | None = None) -> Response:
    """The response, with the headers that OpenAI's clients read before they retry."""
    headers = headers_of(error) | {"x-should-retry": "true" if error.exception().retryable else "false"}
    if error.retry_after_ms is not None:
        headers["retry-after-ms"] = str(error.retry_after_ms)
    status, _ = _status_and_code(error)
    return Response(data(error_object(error, param)), status, headers, "application/json")


def _status_and_code(error: Error) -> tuple[int, str]:
    code = error.code or Internal.code
    return _OPENAI_CODES.get(code, (ERRORS.get(code, Internal).status, code))
