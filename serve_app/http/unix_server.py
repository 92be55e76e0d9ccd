"""HTTP on a Unix socket, for the HAProxy on the same node. Knows no routes.

Serve's own server adds metrics, logs and contexts to each request, which cost as much as everything else on a
request's way through the ingress. HAProxy finds the socket by the replica's id. It checks the replica's health at
Serve's port, so that Serve still starts, drains and stops replicas. Without HAProxy, Serve's port has the same routes.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from serve_app.http.middleware import below_prefix, with_request_id

BACKLOG = 4096


class UnixServer:
    """Serves `app` on the Unix socket `path`, in the running loop, until `close`."""

    def __init__(self, app: ASGIApp, path: Path) -> None:
        config = uvicorn.Config(
            with_request_id(below_prefix(app)),
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=3600,  # HAProxy closes idle connections.
        )
        self._server = _Server(config)
        self._listener = socket.socket(socket.AF_UNIX)
        self.path = path
        path.unlink(missing_ok=True)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(BACKLOG)
        self._serving = asyncio.create_task(self._server.serve([self._listener]))

    def leave(self) -> None:
        """Accepts no more requests. The path may be another's from now on."""
        if not self._server.should_exit:
            self.path.unlink(missing_ok=True)
            self._server.should_exit = True

    async def close(self) -> None:
        """The same, and answers the requests that it has."""
        self.leave()
        await self._serving


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none: Ray handles the process's signals."""
        yield
