"""An answer as an HTTP response: the union's shape, or on /v1 and /v2 their own protocols' for an Error."""

from starlette.responses import JSONResponse, Response

from deployments.contract import wire
from deployments.contract.errors import ERRORS, Internal
from deployments.contract.types import Error, InferResponse
from serve_app.http.openai.errors import error_reply

_AGAIN = (429, 503)


def rendered(answer: InferResponse, content_type: str) -> Response:
    """The union's shape in one of its formats."""
    if not isinstance(answer, Error):
        return Response(wire.encode(answer, content_type), media_type=content_type)
    return Response(wire.encode(answer, content_type), status_of(answer), headers_of(answer), content_type)


def failure_response(path: str, error: Error) -> Response:
    """In the shape that callers of this path read."""
    if path == "/v1" or path.startswith("/v1/"):
        return error_reply(error)
    if path == "/v2" or path.startswith("/v2/"):
        return JSONResponse({"error": error.message}, status_of(error), headers_of(error))
    return rendered(error, wire.JSON)


def status_of(error: Error) -> int:
    return ERRORS.get(error.code or "", Internal).status


def headers_of(error: Error) -> dict[str, str]:
    """`retry-after` in whole seconds wherever coming again may help. `x-request-id` is Serve's to add."""
    if error.retry_after_ms is None and not (error.retryable and status_of(error) in _AGAIN):
        return {}
    return {"retry-after": str(-(-(error.retry_after_ms or 1000) // 1000))}
