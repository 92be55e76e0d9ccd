"""Streams over HTTP in one process: events, statuses, keep-alive comments, and clients that disconnect."""

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from deployments.contract.chunk import Chunk
from deployments.contract.errors import Overloaded
from deployments.contract.types import InferRequest, TextGenerationResult
from deployments.replica.calls import Reply
from serve_app.http import sse
from tests.support.http_runtimes import FakeRuntime, Script, http_app, saying_hey
from tests.support.until import turns, until

REQUEST = b'{"TextGeneration":{"model_id":"m","prompt":"p","max_tokens":5,"stream":true}}'
RESULT = TextGenerationResult(generated_text="a\u2028b", model_id="m", finish_reason="stop")


async def three_replies(request: InferRequest) -> AsyncGenerator[Reply, None]:
    yield Chunk("a", 1)
    yield Chunk("\u2028b", 2)
    yield RESULT


async def refused(request: InferRequest) -> AsyncGenerator[Reply, None]:
    failure = Overloaded("busy")
    failure.retry_after_ms = 1200
    raise failure
    yield  # what makes it a generator


async def broken(request: InferRequest) -> AsyncGenerator[Reply, None]:
    yield Chunk("a", 1)
    raise Overloaded("broken")


async def endless(request: InferRequest) -> AsyncGenerator[Reply, None]:
    number = 0
    while True:
        number += 1
        yield Chunk("a", number)
        await turns()


async def silent(request: InferRequest) -> AsyncGenerator[Reply, None]:
    await asyncio.Event().wait()
    yield RESULT


class Connection:
    """One client of the application, by hand: it can disconnect, and it can stop reading."""

    def __init__(self, runtime: FakeRuntime, body: bytes = REQUEST) -> None:
        self.app = http_app(runtime)
        self.sent: list[Message] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.disconnected = asyncio.Event()
        self._requests = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive(self) -> Message:
        if self._requests:
            return self._requests.pop()
        await self.disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        self.sent.append(message)

    async def run(self) -> None:
        scope = {"type": "http", "method": "POST", "path": "/infer", "headers": [], "query_string": b""}
        await self.app(scope, self.receive, self.send)

    async def sent_more_than(self, messages: int) -> None:
        await until(lambda: len(self.sent) > messages)


def post(script: Script) -> tuple[int, str, str]:
    with TestClient(http_app(FakeRuntime(script))) as http:
        reply = http.post("/infer", content=REQUEST)
        return reply.status_code, reply.headers["content-type"], reply.text


def test_a_stream_is_token_events_closed_by_the_whole_result() -> None:
    status, content_type, text = post(three_replies)
    assert (status, content_type.split(";")[0]) == (200, "text/event-stream")
    assert text.splitlines() == [  # str.splitlines knows more line ends than SSE
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


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/infer", REQUEST, "text/event-stream"),
        ("/v1/completions", b'{"model":"m","prompt":"p","stream":true}', "text/event-stream"),
        (
            "/v1/chat/completions",
            b'{"model":"m","messages":[{"role":"user","content":""}],"stream":true}',
            "text/event-stream",
        ),
        ("/infer/batch", REQUEST, "application/x-ndjson"),
    ],
)
def test_proxies_are_told_to_keep_no_part_of_a_stream_back(path: str, body: bytes, kind: str) -> None:
    with TestClient(http_app(FakeRuntime(saying_hey()))) as http:
        reply = http.post(path, content=body, headers={"content-type": kind} if "ndjson" in kind else {})
    assert reply.headers["content-type"].startswith(kind)
    assert reply.headers["x-accel-buffering"] == "no"
    assert reply.headers["cache-control"] == "no-cache, no-transform"


def test_a_failure_before_the_first_token_has_its_own_status() -> None:
    status, content_type, text = post(refused)
    assert (status, content_type) == (429, "application/json")
    assert json.loads(text)["Error"]["retry_after_ms"] == 1200


def test_a_malformed_request_for_a_stream_is_an_error() -> None:
    with TestClient(http_app(FakeRuntime(three_replies))) as http:
        reply = http.post("/infer", content=REQUEST.replace(b"true", b"1"))
    assert reply.status_code == 400
    assert "TextGeneration.stream" in reply.json()["Error"]["message"]


def test_an_error_after_the_first_token_is_the_last_event() -> None:
    status, _, text = post(broken)
    assert status == 200
    event, data = text.strip().split("\n\n")[-1].split("\n")
    assert event == "event: result"
    assert json.loads(data.removeprefix("data: "))["Error"]["code"] == "overloaded"


async def test_a_disconnect_cancels_the_stream() -> None:
    runtime = FakeRuntime(endless)
    connection = Connection(runtime)
    serving = asyncio.create_task(connection.run())
    await connection.sent_more_than(3)
    connection.disconnected.set()
    await serving
    assert runtime.ended.is_set()


@pytest.mark.parametrize("body", [REQUEST, REQUEST.replace(b"true", b"false")])
async def test_a_disconnect_before_the_first_token_cancels_the_request(body: bytes) -> None:
    runtime = FakeRuntime(silent)
    connection = Connection(runtime, body)
    serving = asyncio.create_task(connection.run())
    await runtime.begun.wait()
    connection.disconnected.set()
    await serving
    assert runtime.ended.is_set()


async def test_a_server_that_shuts_down_cancels_its_requests() -> None:
    runtime = FakeRuntime(silent)
    serving = asyncio.create_task(Connection(runtime).run())
    await runtime.begun.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await runtime.ended.wait()


async def test_a_client_that_stops_reading_ends_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "WRITE_TIMEOUT_S", 0.05)
    runtime = FakeRuntime(endless)
    connection = Connection(runtime)
    serving = asyncio.create_task(connection.run())
    await connection.sent_more_than(1)
    connection.reads.clear()
    await serving
    assert runtime.ended.is_set()
    assert connection.sent[-1].get("more_body")


async def test_comments_are_sent_while_no_token_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "FIRST_REPLY_WAIT_S", 0.01)
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.01)
    connection = Connection(FakeRuntime(silent))
    serving = asyncio.create_task(connection.run())
    await connection.sent_more_than(2)
    connection.disconnected.set()
    await serving
    assert connection.sent[0]["status"] == 200
    assert all(message["body"].startswith(b":") for message in connection.sent[1:])
