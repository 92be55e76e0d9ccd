"""A request's head: how large it may be, and which headers are not for clients."""

from collections.abc import Iterable, Mapping
from typing import Any

from deployments.contract.errors import HeadersTooLarge

MAX_HEADERS = 64
MAX_HEAD_BYTES = 16 * 1024
SWITCHES = frozenset(
    {
        "x_request_timeout_seconds",
        "x_request_disconnect_disabled",
        "serve_multiplexed_model_id",
        "x_session_id",
        "serve_session_id",
    }
)
"""By these Serve lets a client turn its protection off or choose a replica; `-` and `_` are the same to it."""


def check_head(scope: Mapping[str, Any]) -> None:
    """Takes an ASGI scope. Raises HeadersTooLarge."""
    headers = scope["headers"]
    if len(headers) > MAX_HEADERS:
        raise HeadersTooLarge(f"more than {MAX_HEADERS} headers")
    size = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
    for name, value in headers:
        size += len(name) + len(value)
    if size > MAX_HEAD_BYTES:
        raise HeadersTooLarge(f"more than {MAX_HEAD_BYTES} bytes of path and headers")


def harmless(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[bytes, bytes]]:
    """Those that may pass: none of Serve's switches, none that is not UTF-8."""
    for name, value in headers:
        try:
            known = name.decode("ascii").lower().replace("-", "_")
            value.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if known not in SWITCHES:
            yield name, value
