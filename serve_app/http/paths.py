"""The path of a request, wherever the application is mounted: whatever decides by a path asks here. Knows no routes."""

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX_HEADER = "x-model-runtime-prefix"
"""With it our HAProxy tells an ingress replica the application's route prefix. HAProxy removes what clients send."""


def path_of(scope: Scope) -> str:
    """The path without the prefix that Serve, a proxy or an ASGI server has put before it: what the router matches."""
    # The router's own function: another reading of the path would let requests pass the checks of their routes.
    return get_route_path(scope) or "/"


def below_prefix(app: ASGIApp) -> ASGIApp:
    """Mounts the application below the prefix that HAProxy names, as Serve's own server does."""
    name = PREFIX_HEADER.encode()

    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope["headers"]
        for number, (header, prefix) in enumerate(headers):
            if header == name:
                del headers[number]
                scope["root_path"] = prefix.decode("latin-1")
                break
        await app(scope, receive, send)

    return mounted
