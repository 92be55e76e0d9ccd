"""Limits on a request's path and headers, and the headers that only Ray Serve itself may set."""

from collections.abc import Iterable, Mapping
from typing import Any

from deployments.contract.errors import HeadersTooLarge

MAX_HEADERS = 64
MAX_HEADER_BYTES = 16 * 1024
"""Of the path, the query, and the names and values of all headers."""
CONTROL_HEADERS = frozenset(
    {
        "x_request_timeout_seconds",
        "x_request_disconnect_disabled",
        "serve_multiplexed_model_id",
        "x_session_id",
        "serve_session_id",
    }
)
"""With these a client can turn off Ray Serve's timeouts or select a replica. Serve reads `-` and `_` as the same."""


def check_header_limits(scope: Mapping[str, Any]) -> None:
    """`scope` is that of ASGI. Raises HeadersTooLarge."""
    headers = scope["headers"]
    if len(headers) > MAX_HEADERS:
        raise HeadersTooLarge(f"more than {MAX_HEADERS} headers")
    size = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
    for name, value in headers:
        size += len(name) + len(value)
    if size > MAX_HEADER_BYTES:
        raise HeadersTooLarge(f"more than {MAX_HEADER_BYTES} bytes of path and headers")


def without_control_headers(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[bytes, bytes]]:
    """The headers except Serve's control headers and those that are not UTF-8."""
    for name, value in headers:
        try:
            known = name.decode("ascii").lower().replace("-", "_")
            value.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if known not in CONTROL_HEADERS:
            yield name, value
