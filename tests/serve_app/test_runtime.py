"""A request from its check to its response: what is refused, what is counted, and that nothing raises."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from deployments.contract.chunk import Chunk
from deployments.contract.errors import InvalidImage, ModelNotFound
from deployments.contract.settings import FamilySettings
from deployments.contract.status import AnsweredRequest
from deployments.contract.text_generation import Usage
from deployments.contract.types import (
    Error,
    ImageClassification,
    InferRequest,
    InferResponse,
    TextGeneration,
    TextGenerationResult,
)
from deployments.metrics.requests import Labels, Recorder
from deployments.replica.calls import Reply
from deployments.repository.model import Model
from serve_app.access.api_keys import Access, AccessSettings, KeySettings
from serve_app.access.caller import Caller, RequestContext
from serve_app.dispatch.admission import Admission
from serve_app.dispatch.dispatcher import Dispatcher, Route
from serve_app.dispatch.replica_pool import ReplicaPool
from serve_app.runtime import Runtime
from tests.serve_app.dispatch.handles import FakeHandle, NoModels
from tests.support.until import until

CONTEXT = RequestContext("r")
REQUEST = TextGeneration(model_id="m", prompt="a", max_tokens=1)
RESULT = TextGenerationResult(generated_text="b", usage=Usage(prompt_tokens=1, completion_tokens=2))


class EmptyRegistry(NoModels):
    async def find_model(self, model_id: str, family: str) -> Model:
        raise ModelNotFound(f"no model {model_id!r}")


class Parts:
    """A runtime of one family, its replicas behind a handle that replies as `script` has it."""

    def __init__(self, *script: list[tuple[int, Reply]], has_models: bool = False, **settings: int) -> None:
        limits = FamilySettings.model_validate(settings)
        route = Route("text", TextGeneration, has_models, limits)
        self.handle = FakeHandle(script)
        pool = ReplicaPool(self.handle.handle(), 2)
        self.admission = Admission(limits, pool.count)
        self.access = Access(AccessSettings(keys={"team": KeySettings(sha256="0" * 64, tokens_per_day=2)}))
        self.recorder = Recorder("test")
        dispatcher = Dispatcher((route,), {"text": pool}, EmptyRegistry())
        self.runtime = Runtime(
            dispatcher, {"text": self.admission}, self.access, self.recorder, lambda: {"m"}, max_prompt_bytes=10
        )

    async def answer(self, request: InferRequest) -> InferResponse:
        return await self.runtime.answer(request, CONTEXT)

    def counted(self) -> dict[Labels, int]:
        return self.recorder.report({}, []).requests


def code_of(response: object) -> str | None:
    assert isinstance(response, Error)
    return response.code


async def listed(replies: AsyncIterator[Reply]) -> list[Reply]:
    return [reply async for reply in replies]


async def test_an_answered_request_is_counted_under_its_model_and_family() -> None:
    parts = Parts([(0, RESULT)])
    assert await parts.answer(REQUEST) == RESULT
    assert parts.counted() == {Labels("m", "text", "ok"): 1}
    assert parts.runtime.under_way == 0


async def test_what_became_of_a_request_is_known_by_its_id_and_told_to_the_log_where_there_is_one() -> None:
    parts = Parts([(0, RESULT)])
    await parts.answer(REQUEST)
    found = parts.runtime.recent.get("r")
    assert found is not None
    assert (found.family, found.model, found.outcome, found.repeated) == ("text", "m", "ok", False)
    assert found.queue_s is not None
    assert 0 <= found.queue_s <= found.total_s
    logged: list[AnsweredRequest] = []
    parts.runtime.logged = logged.append
    await parts.runtime.answer(InvalidImage("no image"), CONTEXT)
    [told] = logged
    assert (told.request_id, told.outcome, told.reason, told.queue_s) == ("r", "invalid_image", "no image", None)


async def test_what_became_of_a_request_is_traced_where_that_is_set() -> None:
    parts, traced = Parts([(0, RESULT)]), []
    parts.runtime.traced = lambda answered, traceparent: traced.append((answered, traceparent))
    await parts.runtime.answer(REQUEST, RequestContext("r", traceparent="00-a-b-01"))
    assert traced == [(parts.runtime.recent.get("r"), "00-a-b-01")]


async def test_what_could_not_be_decoded_is_answered_and_counted() -> None:
    parts = Parts()
    response = await parts.runtime.answer(InvalidImage("no image"), CONTEXT)
    assert response == Error.of(InvalidImage("no image"), "r")
    assert parts.counted() == {Labels("unknown", "unknown", "invalid_image"): 1}


async def test_what_is_no_request_is_refused() -> None:
    parts = Parts()
    assert code_of(await parts.runtime.answer("a text", CONTEXT)) == "invalid_request"  # type: ignore[arg-type]
    assert code_of(await parts.answer(ImageClassification(model_id="m", image_data=b""))) == "invalid_request"
    assert parts.counted() == {Labels("unknown", "unknown", "invalid_request"): 2}


async def test_an_unknown_model_is_no_label() -> None:
    parts = Parts(has_models=True)
    assert code_of(await parts.answer(TextGeneration(model_id="x", prompt="a", max_tokens=1))) == "model_not_found"
    assert parts.counted() == {Labels("unknown", "text", "model_not_found"): 1}


async def test_a_prompt_is_refused_by_its_bytes() -> None:
    parts = Parts([(0, RESULT)])
    long = TextGeneration(model_id="m", prompt="é" * 6, max_tokens=1)
    assert code_of(await parts.answer(long)) == "prompt_too_long"
    assert await parts.answer(TextGeneration(model_id="m", prompt="é" * 5, max_tokens=1)) == RESULT


async def test_a_key_pays_for_the_tokens_of_its_requests() -> None:
    parts, context = Parts([(0, RESULT)]), RequestContext("r", Caller("team"))
    assert await parts.runtime.answer(REQUEST, context) == RESULT
    assert code_of(await parts.runtime.answer(REQUEST, context)) == "overloaded"


async def test_a_request_holds_its_slot_until_it_is_answered() -> None:
    parts = Parts(max_ongoing_requests=1)
    first, second = (asyncio.create_task(parts.answer(REQUEST)) for _ in range(2))
    await until(lambda: parts.handle.exchanges)
    await until(lambda: parts.admission.total == 1)
    parts.handle.exchanges[0].answer()
    await first
    await until(lambda: len(parts.handle.exchanges) == 2)
    parts.handle.exchanges[1].answer()
    await second
    assert parts.admission.queue("").idle


async def test_a_cancelled_request_is_counted_and_leaves_nothing() -> None:
    parts = Parts()
    asking = asyncio.create_task(parts.answer(REQUEST))
    await until(lambda: parts.handle.exchanges)
    asking.cancel()
    await until(lambda: parts.handle.exchanges[0].cancelled)
    assert parts.counted() == {Labels("m", "text", "cancelled"): 1}
    assert (parts.runtime.under_way, parts.admission.queue("").idle) == (0, True)


async def test_a_stream_is_its_chunks_and_its_response() -> None:
    parts = Parts([(0, Chunk("b", 1))], [(0, RESULT)])
    replies = await listed(parts.runtime.stream(REQUEST, CONTEXT))
    assert replies == [Chunk("b", 1), RESULT]
    assert parts.counted() == {Labels("m", "text", "ok"): 1}


async def test_a_stream_that_fails_ends_with_an_error() -> None:
    parts = Parts(has_models=True)
    (error,) = await listed(parts.runtime.stream(REQUEST, CONTEXT))
    assert code_of(error) == "model_not_found"


async def test_a_stream_that_is_closed_is_cancelled_and_counted() -> None:
    parts = Parts([(0, Chunk("b", 1))])
    async with aclosing(parts.runtime.stream(REQUEST, CONTEXT)) as replies:
        assert await anext(replies) == Chunk("b", 1)
    await until(lambda: parts.handle.exchanges[0].cancelled)
    assert parts.counted() == {Labels("m", "text", "cancelled"): 1}
    assert parts.admission.queue("").idle
