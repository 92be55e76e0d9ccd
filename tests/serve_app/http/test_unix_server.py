"""The ingress's own door: HTTP on a Unix socket, which HAProxy is told of."""

import asyncio
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from deployments.replica.launcher_profile import LauncherProfile
from serve_app.http.haproxy import mended
from serve_app.http.unix_server import UnixServer

SERVER = "    server SERVE_REPLICA_app-Ingress-{} 127.0.0.1:30001 check observe layer4\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:  # pytest's are too deep for the name of a socket
        yield Path(name)


async def slowly(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the request's body once `go` is set."""
    body = await Request(scope, receive).body()
    asked.set()
    await go.wait()
    await PlainTextResponse(body)(scope, receive, send)


asked, go = asyncio.Event(), asyncio.Event()


async def test_a_request_under_way_is_answered_before_the_door_closes(folder: Path) -> None:
    path = folder / "door.sock"
    server = UnixServer(slowly, path)
    assert path.stat().st_mode & 0o777 == 0o600
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as client:
        asking = asyncio.create_task(client.post("http://x/", content=b"hi", headers={"x-request-id": "mine"}))
        await asked.wait()
        closing = asyncio.create_task(server.close())
        await asyncio.sleep(0)
        go.set()
        reply = await asking
        assert (reply.text, reply.headers.get_list("x-request-id")) == ("hi", ["mine"])
        await closing
    assert not path.exists()


def test_haproxy_goes_through_the_sockets_that_are_there(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "abc123.sock"))
        (folder / "node").mkdir()
        _, ours, other = mended(
            SERVER.format("abc123") + SERVER.format("xyz789"), folder / "node", LauncherProfile(folder)
        ).splitlines()
    assert f"unix@{folder}/abc123.sock check observe layer4 addr 127.0.0.1 port 30001" in ours
    assert other == SERVER.format("xyz789").rstrip()
