"""Streams over HTTP, in one process: their form, their status, their silences, and clients that go."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable

import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from deployments.contract.errors import Overloaded, ServingError
from deployments.contract.failures import error_of
from deployments.contract.types import Chunk, InferResponse, TextGenerationResult
from deployments.replica.calls import Reply
from serve_app.access.api_keys import Access, AccessSettings
from serve_app.access.caller import RequestContext
from serve_app.config.config import IngressSettings
from serve_app.http import sse
from serve_app.http.interfaces import Asked
from tests.serve_app.http.test_app import Recording
from tests.support.http_app import http_app

REQUEST = b'{"TextGeneration":{"model_id":"m","prompt":"p","max_tokens":5,"stream":true}}'
RESULT = TextGenerationResult(generated_text="a\u2028b", model_id="m", finish_reason="stop")
Script = Callable[[], AsyncGenerator[Reply, None]]


class Scripted(Recording):
    """A runtime whose streams follow a script."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self.settings = IngressSettings(max_body_mb=1)
        self.access = Access(AccessSettings())
        self.script = script
        self.asked_for, self.closed = asyncio.Event(), asyncio.Event()

    async def answer(self, asked: Asked, context: RequestContext) -> InferResponse:
        *_, answer = [reply async for reply in self.stream(asked, context)]
        assert isinstance(answer, InferResponse)
        return answer

    async def stream(self, asked: Asked, context: RequestContext) -> AsyncGenerator[Reply, None]:
        try:
            if isinstance(asked, ServingError):
                raise asked
            self.asked_for.set()
            async for reply in self.script():
                yield reply
        except Exception as cause:
            yield error_of(cause, context.request_id)
        finally:
            self.closed.set()


async def told() -> AsyncGenerator[Reply, None]:
    yield Chunk("a", 1)
    yield Chunk("\u2028b", 2)
    yield RESULT


async def refused() -> AsyncGenerator[Reply, None]:
    failure = Overloaded("busy")
    failure.retry_after_ms = 1200
    raise failure
    yield  # what makes it a generator


async def broken() -> AsyncGenerator[Reply, None]:
    yield Chunk("a", 1)
    raise Overloaded("broken on the way")


async def endless() -> AsyncGenerator[Reply, None]:
    number = 0
    while True:
        number += 1
        yield Chunk("a", number)
        await asyncio.sleep(0)


async def silent() -> AsyncGenerator[Reply, None]:
    await asyncio.Event().wait()
    yield RESULT


class Connection:
    """One client of the application, by hand: it can go, and it can stop reading."""

    def __init__(self, runtime: Scripted, body: bytes = REQUEST) -> None:
        self.app = http_app(runtime)
        self.sent: list[Message] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.gone = asyncio.Event()
        self._requests = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive(self) -> Message:
        if self._requests:
            return self._requests.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        self.sent.append(message)

    async def run(self) -> None:
        scope = {"type": "http", "method": "POST", "path": "/infer", "headers": [], "query_string": b""}
        await self.app(scope, self.receive, self.send)

    async def sent_more_than(self, messages: int) -> None:
        while len(self.sent) <= messages:
            await asyncio.sleep(0)


def post(script: Script) -> tuple[int, str, str]:
    with TestClient(http_app(Scripted(script))) as http:
        reply = http.post("/infer", content=REQUEST)
        return reply.status_code, reply.headers["content-type"], reply.text


def test_a_stream_is_tokens_closed_by_the_whole_result() -> None:
    status, content_type, text = post(told)
    assert (status, content_type.split(";")[0]) == (200, "text/event-stream")
    assert text.splitlines() == [  # Python's idea of a line end is wide
        "event: token",
        'data: {"text":"a","index":1}',
        "",
        "event: token",
        'data: {"text":"\\u2028b","index":2}',
        "",
        "event: result",
        'data: {"TextGenerationResult":{"generated_text":"a\\u2028b","model_id":"m","finish_reason":"stop"}}',
        "",
    ]


def test_a_failure_before_the_first_token_has_its_own_status() -> None:
    status, content_type, text = post(refused)
    assert (status, content_type) == (429, "application/json")
    assert json.loads(text)["Error"]["retry_after_ms"] == 1200


def test_a_malformed_request_for_a_stream_is_an_error() -> None:
    with TestClient(http_app(Scripted(told))) as http:
        reply = http.post("/infer", content=REQUEST.replace(b"true", b"1"))
    assert reply.status_code == 400
    assert "TextGeneration.stream" in reply.json()["Error"]["message"]


def test_a_failure_on_the_way_is_the_last_event() -> None:
    status, _, text = post(broken)
    assert status == 200
    event, data = text.strip().split("\n\n")[-1].split("\n")
    assert event == "event: result"
    assert json.loads(data.removeprefix("data: "))["Error"]["code"] == "overloaded"


async def test_when_the_client_goes_the_request_is_taken_back() -> None:
    runtime = Scripted(endless)
    connection = Connection(runtime)
    serving = asyncio.create_task(connection.run())
    await connection.sent_more_than(3)
    connection.gone.set()
    await serving
    assert runtime.closed.is_set()


@pytest.mark.parametrize("body", [REQUEST, REQUEST.replace(b"true", b"false")])
async def test_a_client_that_goes_before_the_first_token_takes_its_request_back(body: bytes) -> None:
    runtime = Scripted(silent)
    connection = Connection(runtime, body)
    serving = asyncio.create_task(connection.run())
    await runtime.asked_for.wait()
    connection.gone.set()
    await serving
    assert runtime.closed.is_set()


async def test_a_server_that_ends_takes_its_requests_back() -> None:
    runtime = Scripted(silent)
    serving = asyncio.create_task(Connection(runtime).run())
    await runtime.asked_for.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await runtime.closed.wait()


async def test_a_client_that_stops_reading_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "WRITE_TIMEOUT_S", 0.05)
    runtime = Scripted(endless)
    connection = Connection(runtime)
    serving = asyncio.create_task(connection.run())
    await connection.sent_more_than(1)
    connection.reads.clear()
    await serving
    assert runtime.closed.is_set()
    assert connection.sent[-1].get("more_body")


async def test_long_silences_are_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "FIRST_REPLY_WAIT_S", 0.01)
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.01)
    connection = Connection(Scripted(silent))
    serving = asyncio.create_task(connection.run())
    await connection.sent_more_than(2)
    connection.gone.set()
    await serving
    assert connection.sent[0]["status"] == 200
    assert all(message["body"].startswith(b":") for message in connection.sent[1:])
