"""Both middlewares: control headers, keys, slow bodies, and the memory of all bodies."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.contract.errors import Overloaded, RequestTimeout, ServingError
from serve_app.access.api_keys import Access, AccessSettings, KeySettings, new_key
from serve_app.access.caller import ANONYMOUS
from serve_app.http import middleware
from serve_app.http.header_limits import MAX_HEADERS
from serve_app.http.middleware import Body, BodyMemory, ControlHeaderFilter, LimitsMiddleware
from serve_app.http.openai.errors import render_error
from serve_app.http.responses import error_response

KEY, SHA256 = new_key()
KEYS = Access(AccessSettings(keys={"team": KeySettings(sha256=SHA256)}))
OPEN = Access(AccessSettings())


@dataclass
class Inner:
    """An application that keeps what it was asked and reads the whole body."""

    seen: list[Scope] = field(default_factory=list)
    callers: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(scope)
        self.callers.append(scope.get("state", {"caller": ANONYMOUS})["caller"].name)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def scope(path: str = "/infer", headers: list[tuple[bytes, bytes]] | None = None) -> Scope:
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers or [],
    }


@dataclass
class Answer:
    status: int = 0
    body: bytes = b""

    async def send(self, message: Message) -> None:
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")


async def nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def asked(app: Callable[..., object], what: Scope) -> Answer:
    answer = Answer()
    await app(what, nothing, answer.send)  # type: ignore[misc]
    return answer


def limited(app: ASGIApp, access: Access) -> LimitsMiddleware:
    return LimitsMiddleware(app, access, 1000, partial(error_response, renderers={"/v1": render_error}))


async def test_headers_beyond_the_limits_are_refused() -> None:
    inner = Inner()
    many = [(b"x-%d" % number, b"1") for number in range(MAX_HEADERS + 1)]
    answer = await asked(limited(inner, OPEN), scope(headers=many))
    assert answer.status == 431
    assert json.loads(answer.body)["Error"]["code"] == "headers_too_large"
    assert not inner.seen


async def test_serve_gets_neither_control_headers_nor_the_request_for_its_routes() -> None:
    inner = Inner()
    await asked(ControlHeaderFilter(inner), scope(headers=[(b"accept", b"*/*"), (b"x-session-id", b"s")]))
    assert inner.seen[0]["headers"] == [(b"accept", b"*/*")]
    answer = await asked(ControlHeaderFilter(inner), scope("/-/routes"))
    assert (answer.status, json.loads(answer.body)["Error"]["code"]) == (404, "not_found")


class Says:
    """An application that answers with one status and text, as Serve's proxy does where it has no replica."""

    def __init__(self, status: int, content_type: bytes = b"text/plain") -> None:
        self.status = status
        self.content_type = content_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", self.content_type)]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for part in (b"Internal ", b"Server Error"):
            await send({"type": "http.response.body", "body": part, "more_body": part == b"Internal "})


@pytest.mark.parametrize(
    ("said", "status", "code", "retryable"),
    [(500, 503, "unavailable", True), (408, 503, "unavailable", True), (503, 503, "unavailable", True),
     (404, 404, "not_found", False)],
)  # fmt: skip
async def test_what_serve_itself_says_is_an_error_of_the_contract(
    said: int, status: int, code: str, retryable: bool
) -> None:
    answer = await asked(ControlHeaderFilter(Says(said)), scope("/infer"))
    error = json.loads(answer.body)["Error"]
    assert (answer.status, error["code"], error["retryable"]) == (status, code, retryable)


@pytest.mark.parametrize(
    ("path", "application"),
    [
        ("/readyz", Says(503)),
        ("/-/healthz", Says(503)),
        ("/infer", Says(503, b"application/json")),
        ("/docs", Says(200)),
    ],
)
async def test_what_the_runtime_says_passes_as_it_is(path: str, application: Says) -> None:
    answer = await asked(ControlHeaderFilter(application), scope(path))
    assert (answer.status, answer.body) == (application.status, b"Internal Server Error")


@pytest.mark.parametrize(
    ("path", "shape"),
    [("/infer", ["Error"]), ("/v1/completions", ["error"]), ("/nope", ["Error"])],
)
async def test_without_a_key_no_route_is_reached_and_the_error_has_the_paths_shape(path: str, shape: list[str]) -> None:
    inner = Inner()
    answer = await asked(limited(inner, KEYS), scope(path))
    assert answer.status == 401
    assert list(json.loads(answer.body)) == shape
    assert not inner.seen


async def test_the_caller_of_a_key_is_in_the_requests_state() -> None:
    inner = Inner()
    bearer = [(b"authorization", b"Bearer " + KEY.encode())]
    assert (await asked(limited(inner, KEYS), scope(headers=bearer))).status == 200
    assert inner.callers == ["team"]


async def test_a_websocket_is_closed() -> None:
    answer: list[Message] = []

    async def send(message: Message) -> None:
        answer.append(message)

    await limited(Inner(), OPEN)({"type": "websocket", "headers": []}, nothing, send)
    assert [message["type"] for message in answer] == ["websocket.close"]


def coming(*parts: bytes) -> Receive:
    left = list(parts)

    async def receive() -> Message:
        if not left:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": left.pop(0), "more_body": True}

    return receive


@pytest.mark.parametrize("streams", [False, True])
async def test_a_body_that_does_not_arrive_times_out(monkeypatch: pytest.MonkeyPatch, streams: bool) -> None:
    monkeypatch.setattr(middleware, "SLOW_BODY_S", 0.01)
    monkeypatch.setattr(middleware, "IDLE_STREAM_S", 0.01)
    body = Body(coming(b"x"), BodyMemory(1000), streams)
    await body.receive()
    with pytest.raises(RequestTimeout):
        await body.receive()


async def test_a_body_that_arrives_too_slowly_times_out_however_often_it_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "SLOW_BODY_S", 0.05)
    parts = 0

    async def trickle() -> Message:
        nonlocal parts
        parts += 1
        await asyncio.sleep(0.002)
        return {"type": "http.request", "body": b"x", "more_body": True}

    body = Body(trickle, BodyMemory(10**9), is_stream=False)

    async def read() -> None:
        while True:
            await body.receive()

    with pytest.raises(RequestTimeout):
        await read()
    assert parts < 100


async def test_all_bodies_together_have_one_memory_limit() -> None:
    held = BodyMemory(10)
    first = Body(coming(b"12345678"), held, is_stream=False)
    await first.receive()
    second = Body(coming(b"123"), held, is_stream=False)
    with pytest.raises(ServingError) as refused:
        await second.receive()
    assert isinstance(refused.value, Overloaded)
    first.release()
    second.release()
    assert held.bytes == 0
