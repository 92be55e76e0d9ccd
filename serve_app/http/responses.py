"""HTTP responses from InferResponses, with the statuses and headers of errors. Knows no other protocol's shapes."""

from collections.abc import Mapping

from starlette.responses import Response

from deployments.contract import wire
from deployments.contract.errors import ERRORS, Internal
from deployments.contract.types import Error, InferResponse
from serve_app.http.interfaces import ErrorRenderer

_RETRY_AFTER = (429, 503)


def rendered(answer: InferResponse, content_type: str) -> Response:
    """The response in one of the wire formats."""
    if not isinstance(answer, Error):
        return Response(wire.encode(answer, content_type), media_type=content_type)
    return Response(wire.encode(answer, content_type), status_of(answer), headers_of(answer), content_type)


def error_response(path: str, error: Error, renderers: Mapping[str, ErrorRenderer]) -> Response:
    """The error as clients of this path read it. `renderers` are those of other protocols, by prefix."""
    for prefix, render in renderers.items():
        if path == prefix or path.startswith(f"{prefix}/"):
            return render(error)
    return rendered(error, wire.JSON)


def status_of(error: Error) -> int:
    return ERRORS.get(error.code or "", Internal).status


def headers_of(error: Error) -> dict[str, str]:
    """`retry-after` in whole seconds where a retry may succeed. The server adds `x-request-id`."""
    if error.retry_after_ms is None and not (error.retryable and status_of(error) in _RETRY_AFTER):
        return {}
    return {"retry-after": str(-(-(error.retry_after_ms or 1000) // 1000))}
