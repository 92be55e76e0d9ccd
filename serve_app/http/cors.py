"""Cross-origin requests: which pages' scripts a browser lets read the answers. Knows origins, no routes and no keys."""

from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import Request
from starlette.responses import Response

READABLE_HEADERS = ("x-request-id", "retry-after", "retry-after-ms", "x-should-retry")
"""Beside those that browsers show to every script."""

Failed = Callable[[Request, Exception], Awaitable[Response]]


def cors(origins: Sequence[str], failed: Failed) -> list[Middleware]:
    """The outermost middlewares, since a preflight carries no key. None without origins.

    `failed` answers what nothing else has caught, here and not further out: so a script can read that answer too.
    """
    if not origins:
        return []
    allowed = Middleware(
        _Cors,
        allow_origins=tuple(origins),
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        expose_headers=READABLE_HEADERS,
    )
    return [allowed, Middleware(ServerErrorMiddleware, handler=failed)]


class _Cors(CORSMiddleware):
    def preflight_response(self, request_headers: Headers) -> Response:
        """A preflight that is refused is answered by the application, as any other request for OPTIONS."""
        response = super().preflight_response(request_headers)
        return response if response.status_code == 200 else cast(Response, self.app)
