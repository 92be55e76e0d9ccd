"""The ingress's own door: HTTP on a Unix socket, for the HAProxy of the same node.

Serve's server wraps each request into metrics, logs and contexts that cost as much as all the rest of the way. HAProxy
finds the socket by the replica's id, and still asks Serve's port whether the replica is well, so
that starting, draining and ending remain Serve's. Where there is no HAProxy of ours, Serve's port has the same routes.
"""

import asyncio
import contextlib
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BACKLOG = 4096
LAST_ANSWERS_S = 5


class UnixServer:
    """Serves `app` on the Unix socket `path`, in the running loop, until `close`."""

    def __init__(self, app: ASGIApp, path: Path) -> None:
        config = uvicorn.Config(
            with_request_id(app),
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=3600,  # HAProxy decides when a connection has been idle for too long.
            timeout_graceful_shutdown=LAST_ANSWERS_S,
        )
        self._server = _Server(config)
        self._listener = socket.socket(socket.AF_UNIX)
        self._path = path
        path.unlink(missing_ok=True)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(BACKLOG)
        self._serving = asyncio.create_task(self._server.serve([self._listener]))

    async def close(self) -> None:
        """Takes nothing new, answers what is under way."""
        self._path.unlink(missing_ok=True)
        self._server.should_exit = True
        await self._serving


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The process's signals are Ray's."""
        yield


def with_request_id(app: ASGIApp) -> ASGIApp:
    """Every request has an id and every response tells it, as on Serve's own port."""

    async def identified(scope: Scope, receive: Receive, send: Send) -> None:
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
        request_id = given or uuid.uuid4().hex.encode()
        if given is None:
            scope["headers"].append((b"x-request-id", request_id))

        async def send_identified(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-request-id", request_id))
            await send(message)

        await app(scope, receive, send_identified)

    return identified
