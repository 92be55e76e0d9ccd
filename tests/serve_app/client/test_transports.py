"""Each transport sends the contract's requests, and raises a ServingError for whatever fails."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field

import httpx
import pytest

from deployments.contract import wire
from deployments.contract.chunk import Chunk
from deployments.contract.errors import DeadlineExceeded, ModelNotFound, Unavailable
from deployments.contract.status import AdminResult, ModelStatus, Plan, QuarantinedInput, Verb
from deployments.contract.types import Error, InferRequest, InferResponse, TextGeneration
from serve_app.client.transports import HttpTransport, ServeHandleTransport, Transport, bearer
from tests.support.http_server import RESULT

REQUEST = TextGeneration(model_id="m", prompt="p", max_tokens=3)
NOT_FOUND = Error(message="no model 'm'", code="model_not_found")
PLAN = Plan("r", "m", resident=False, fits=True, needs_bytes=5, measured=False, free_bytes=9)
INPUT = QuarantinedInput("5e0c", "m", "text_generation", "request-1", deaths=2, since=1.0, until=2.0)
STATUS = ModelStatus(
    model_id="m",
    version=None,
    versions=[],
    family="text_generation",
    state="ready",
    reason=None,
    pinned=False,
    declared_bytes=5,
    resident_bytes=[5],
    loads=1,
    evictions=0,
    last_use=None,
    replicas=[],
    notes=[],
)


def http(answer: Callable[[httpx.Request], httpx.Response]) -> HttpTransport:
    """Without a network: `answer` stands for the runtime."""
    transport = HttpTransport("http://runtime", 5, "key")
    transport.http = httpx.AsyncClient(
        base_url="http://runtime", headers=bearer("key"), transport=httpx.MockTransport(answer)
    )
    return transport


def packed(response: InferResponse, status: int = 200) -> httpx.Response:
    return httpx.Response(status, headers={"content-type": wire.MSGPACK}, content=wire.encode(response, wire.MSGPACK))


async def replies_of(transport: Transport) -> list[Chunk | InferResponse]:
    return [reply async for reply in transport.stream(REQUEST)]


async def test_a_request_travels_as_messagepack_with_the_key() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("POST", "/infer")
        assert request.headers["authorization"] == "Bearer key"
        assert wire.decode(request.content, request.headers["content-type"], InferRequest) == REQUEST
        return packed(RESULT)

    assert await http(answer).infer(REQUEST) == RESULT


async def test_a_stream_that_fails_before_its_first_event_has_one_reply() -> None:
    assert await replies_of(http(lambda request: packed(NOT_FOUND, 404))) == [NOT_FOUND]


@pytest.mark.parametrize(
    ("verb", "method", "path"), [(Verb.SHOW, "GET", "/models/team/m@2"), (Verb.LOAD, "POST", "/models/team/m@2/load")]
)
async def test_each_verb_has_its_route(verb: Verb, method: str, path: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == (method, path)
        return httpx.Response(200, json=STATUS.model_dump())

    assert await http(answer).administer(verb, "team/m@2") == STATUS


async def test_plans_and_models_are_read() -> None:
    plans = http(lambda request: httpx.Response(200, json={"plans": [asdict(PLAN)]}))
    assert await plans.administer(Verb.PLAN, "m") == [PLAN]
    models = http(lambda request: httpx.Response(200, json={"models": [STATUS.model_dump()]}))
    assert await models.models() == [STATUS]


async def test_the_quarantine_is_read_and_lifted() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            assert request.url.raw_path == b"/quarantine/5e%2F0c"
            return httpx.Response(200, json=asdict(INPUT))
        assert (request.method, request.url.path) == ("GET", "/quarantine")
        return httpx.Response(200, json={"inputs": [asdict(INPUT)]})

    assert await http(answer).quarantine() == [INPUT]
    assert await http(answer).lift("5e/0c") == INPUT


async def test_an_error_of_an_administrative_route_is_raised_by_its_code() -> None:
    body = json.dumps(wire.to_object(NOT_FOUND))
    transport = http(lambda request: httpx.Response(404, headers={"content-type": wire.JSON}, content=body))
    for call in (transport.administer(Verb.LOAD, "m"), transport.models(), transport.lift("5e0c")):
        with pytest.raises(ModelNotFound, match="no model 'm'"):
            await call


async def test_a_body_of_another_server_is_unavailable_with_its_status() -> None:
    transport = http(lambda request: httpx.Response(502, text="<html>"))
    for call in (transport.infer(REQUEST), replies_of(transport), transport.models()):
        with pytest.raises(Unavailable, match="HTTP 502 with a body that is no InferResponse"):
            await call


async def test_a_connection_that_fails_is_unavailable_with_the_reason() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("")  # httpx gives it no text

    transport = http(refuse)
    calls = (transport.infer(REQUEST), replies_of(transport), transport.models(), transport.administer(Verb.SHOW, "m"))
    for call in calls:
        with pytest.raises(Unavailable, match="the runtime cannot be reached: ReadTimeout"):
            await call


@dataclass
class Call:
    """A DeploymentResponse, or a DeploymentResponseGenerator: `answers`, or never any."""

    answers: list[object] = field(default_factory=list)
    cancelled: bool = False

    async def _answer(self) -> object:
        if not self.answers:
            await asyncio.Event().wait()
        return self.answers[0]

    def __await__(self) -> object:
        return self._answer().__await__()

    async def __aiter__(self) -> AsyncIterator[object]:
        for answer in self.answers:
            yield answer
        await asyncio.Event().wait()

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Handle:
    """A DeploymentHandle of which every method gives one call."""

    call: Call
    method: str = ""

    def options(self, stream: bool) -> "Handle":
        assert stream
        return self

    def __getattr__(self, method: str) -> "Handle":
        return Handle(self.call, method)

    def remote(self, *arguments: object) -> Call:
        assert self.method in ("infer", "infer_stream", "models", "administer", "quarantine", "lift")
        return self.call


def handle(*answers: object) -> ServeHandleTransport:
    return ServeHandleTransport(Handle(Call(list(answers))), timeout_s=0.01)


async def test_a_handle_gives_what_the_ingress_returns() -> None:
    assert await handle(RESULT).infer(REQUEST) == RESULT
    assert await handle([STATUS]).models() == [STATUS]
    expected: AdminResult = [PLAN]
    assert await handle([PLAN]).administer(Verb.PLAN, "m") == expected
    assert await handle([INPUT]).quarantine() == [INPUT]
    assert await handle(INPUT).lift("5e0c") == INPUT


async def test_an_error_of_an_administrative_call_is_raised_by_its_code() -> None:
    for call in (handle(NOT_FOUND).administer(Verb.LOAD, "m"), handle(NOT_FOUND).lift("5e0c")):
        with pytest.raises(ModelNotFound):
            await call


async def test_a_call_without_an_answer_is_cancelled_at_its_deadline() -> None:
    transport = handle()
    for call in (transport.infer(REQUEST), transport.models()):
        transport.handle.call.cancelled = False
        with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.01 s"):
            await call
        assert transport.handle.call.cancelled


async def test_a_stream_that_is_left_is_cancelled() -> None:
    transport = handle(Chunk("a", 1), RESULT)
    replies = transport.stream(REQUEST)
    assert await anext(replies) == Chunk("a", 1)
    await replies.aclose()
    assert transport.handle.call.cancelled


def test_without_a_key_there_is_no_header() -> None:
    assert bearer(None) == {}
