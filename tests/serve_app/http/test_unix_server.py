"""HTTP on a Unix socket, and how its server shuts down."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from serve_app.http.header_limits import PREFIX_HEADER
from serve_app.http.unix_server import UnixServer
from tests.support.http_runtimes import FakeRuntime, http_app
from tests.support.until import turns


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are too deep for a socket's name
        yield Path(folder) / "ingress.sock"


class Slow:
    """Answers with the request's body once `answers` is set."""

    def __init__(self) -> None:
        self.received, self.answers = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        self.received.set()
        await self.answers.wait()
        await PlainTextResponse(body, headers={"x-seen": request.headers["x-request-id"]})(scope, receive, send)


def permissions_of(path: Path) -> int | None:
    return path.stat().st_mode & 0o777 if path.exists() else None


def client_of(path: Path) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://ingress")


async def test_a_request_that_is_being_answered_delays_the_shutdown(path: Path) -> None:
    app = Slow()
    server = UnixServer(app, path)
    assert permissions_of(path) == 0o600
    async with client_of(path) as client:
        response = asyncio.create_task(client.post("/", content=b"hi"))
        await app.received.wait()
        closing = asyncio.create_task(server.close())
        await turns()
        another = UnixServer(app, path)  # Its place is free at once.
        app.answers.set()
        assert (await response).text == "hi"
        await closing
    assert permissions_of(path) == 0o600
    await another.close()
    assert permissions_of(path) is None


@pytest.mark.parametrize("sent", ["mine", None])
async def test_request_and_response_have_one_request_id(path: Path, sent: str | None) -> None:
    app = Slow()
    app.answers.set()
    server = UnixServer(app, path)
    async with client_of(path) as client:
        response = await client.post("/", headers={"x-request-id": sent} if sent else {})
    (request_id,) = response.headers.get_list("x-request-id")
    assert response.headers["x-seen"] == request_id
    assert request_id == sent if sent else len(request_id) == 32
    await server.close()


async def test_an_application_below_a_prefix_is_reached_through_the_socket(path: Path) -> None:
    server = UnixServer(http_app(FakeRuntime()), path)
    async with client_of(path) as client:
        assert (await client.get("/llm/healthz", headers={PREFIX_HEADER: "/llm"})).text == "alive\n"
        assert (await client.get("/healthz")).text == "alive\n"
        assert (await client.get("/llm/healthz")).status_code == 404
    await server.close()
