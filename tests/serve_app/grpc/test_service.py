"""The RPCs over a real channel: what reaches the runtime, and what comes back."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
import pytest

from deployments.contract.chunk import Chunk
from deployments.contract.errors import ERRORS, Overloaded, ServingError, Unavailable
from deployments.contract.text_generation import PromptToken
from deployments.contract.types import ImageClassification, InferRequest, TextGeneration, TextGenerationResult
from deployments.replica.calls import Reply
from serve_app.access.api_keys import AccessSettings, KeySettings, new_key
from serve_app.access.caller import Priority
from serve_app.grpc.messages import to_message
from serve_app.grpc.service import ERROR_DETAILS
from serve_app.grpc.stubs import inference_pb2 as pb
from tests.support.http_runtimes import FakeRuntime, responding, saying_hey
from tests.support.until import until

TEXT = TextGeneration(model_id="m", prompt="p", max_tokens=5)


def message(request: InferRequest = TEXT) -> pb.InferRequest:
    return to_message(request, pb.InferRequest())


async def refused(call: Any) -> tuple[grpc.StatusCode, str, pb.Error]:
    """The status of a call, its message, and the Error beside it."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    details = dict(raised.value.trailing_metadata())[ERROR_DETAILS]
    return raised.value.code(), raised.value.details() or "", pb.Error.FromString(details)


async def test_a_request_is_answered(stub: Any, runtime: FakeRuntime) -> None:
    call = stub.Infer(message(), metadata=(("x-request-id", "r-7"),))
    answer = (await call).text_generation_result
    assert (answer.generated_text, answer.finish_reason, answer.usage.prompt_tokens) == ("hey", "stop", 3)
    assert runtime.asked == [TEXT]
    assert dict(await call.initial_metadata())["x-request-id"] == "r-7"


@pytest.mark.parametrize("kind", ERRORS.values(), ids=ERRORS.keys())
async def test_every_error_has_its_status(stub: Any, runtime: FakeRuntime, kind: type[ServingError]) -> None:
    runtime.script = responding(kind("why"))
    code, text, details = await refused(stub.Infer(message(), metadata=(("x-request-id", "r-7"),)))
    assert (code.name, text) == (kind.grpc, "why")
    assert (details.code, details.retryable, details.request_id) == (kind.code, kind.retryable, "r-7")


async def test_a_stream_has_its_chunks_and_then_the_response(stub: Any) -> None:
    asked = message(TEXT.model_copy(update={"logprobs": 1}))
    replies = [reply async for reply in stub.InferStream(asked)]
    assert [(reply.chunk.text, reply.chunk.index) for reply in replies[:2]] == [("he", 1), ("y", 2)]
    assert replies[0].chunk.logprobs[0].top[0].token == "hi"
    assert replies[2].response.text_generation_result.generated_text == "hey"


async def test_a_stream_tells_the_prompt_first(stub: Any, runtime: FakeRuntime) -> None:
    async def script(request: InferRequest) -> AsyncGenerator[Reply, None]:
        yield Chunk("", 0, prompt_logprobs=(PromptToken(token="p", utf8=[112], logprob=None, top=[]),))
        yield TextGenerationResult(generated_text="")

    runtime.script = script
    first = await anext(aiter(stub.InferStream(message())))
    [told] = first.chunk.prompt_logprobs
    assert (told.token, told.HasField("logprob")) == ("p", False)


async def test_a_stream_that_breaks_ends_with_the_status(stub: Any, runtime: FakeRuntime) -> None:
    runtime.script = saying_hey(fails_after=Unavailable("lost"))
    seen = []

    async def read() -> None:
        async for reply in stub.InferStream(message()):
            seen.append(reply.chunk.text)

    code, text, _ = await refused(read())
    assert (seen, code, text) == (["he"], grpc.StatusCode.UNAVAILABLE, "lost")


async def test_a_batch_is_answered_in_order_while_it_is_sent(stub: Any, runtime: FakeRuntime) -> None:
    first_answered = asyncio.Event()

    async def script(request: InferRequest) -> Any:
        assert isinstance(request, TextGeneration)
        if request.prompt == "bad":
            raise Overloaded("full")
        yield TextGenerationResult(generated_text=request.prompt)

    async def requests() -> AsyncIterator[pb.InferRequest]:
        yield message(TEXT.model_copy(update={"prompt": "a"}))
        await first_answered.wait()
        yield message(TEXT.model_copy(update={"prompt": "bad"}))
        yield pb.InferRequest()
        yield message(TEXT.model_copy(update={"prompt": "b"}))

    runtime.script = script
    answers = []
    async for answer in stub.InferBatch(requests()):
        first_answered.set()
        answers.append(answer.text_generation_result.generated_text or answer.error.code)
    assert answers == ["a", "overloaded", "invalid_request", "b"]


async def test_more_than_fit_side_by_side_are_all_answered(stub: Any) -> None:
    async def requests() -> AsyncIterator[pb.InferRequest]:
        for _ in range(150):
            yield message()

    assert len([answer async for answer in stub.InferBatch(requests())]) == 150


async def endless(request: InferRequest) -> Any:
    await asyncio.Event().wait()
    yield


@pytest.mark.parametrize("kind", ["Infer", "InferStream", "InferBatch"])
async def test_a_client_that_cancels_cancels_its_requests(stub: Any, runtime: FakeRuntime, kind: str) -> None:
    runtime.script = endless

    async def forever() -> AsyncIterator[pb.InferRequest]:
        yield message()
        await asyncio.Event().wait()

    call = getattr(stub, kind)(forever() if kind == "InferBatch" else message())
    reading = asyncio.create_task(call.read() if kind != "Infer" else _awaited(call))
    await until(lambda: runtime.under_way == 1)
    call.cancel()
    await asyncio.wait([reading])
    await until(lambda: runtime.under_way == 0)


async def _awaited(call: Any) -> Any:
    return await call


async def test_the_deadline_of_the_rpc_is_the_requests(stub: Any, runtime: FakeRuntime) -> None:
    await stub.Infer(message(), timeout=100)
    await stub.Infer(message(), timeout=100, metadata=(("x-deadline-ms", "1000"), ("x-priority", "high")))
    await stub.Infer(message())
    later, earlier, none = runtime.callers
    assert later.deadline_at is not None
    assert earlier.deadline_at is not None
    assert earlier.deadline_at < later.deadline_at - 50
    assert (earlier.priority, none.deadline_at) == (Priority.HIGH, None)


async def test_a_message_that_is_too_large_is_refused(stub: Any, runtime: FakeRuntime) -> None:
    def picture(size: int) -> pb.InferRequest:
        return message(ImageClassification(model_id="m", image_data=bytes(size)))

    limit = runtime.settings.max_body_bytes
    code, _, details = await refused(stub.Infer(picture(limit)))
    assert (code, details.code) == (grpc.StatusCode.INVALID_ARGUMENT, "payload_too_large")
    with pytest.raises(grpc.aio.AioRpcError) as unread:
        await stub.Infer(picture(3 * limit))
    assert unread.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert runtime.asked == []


async def test_keys_and_quotas_hold(stub: Any, runtime: FakeRuntime) -> None:
    key, sha256 = new_key()
    runtime.access.update(AccessSettings(keys={"team": KeySettings(sha256=sha256, requests_per_day=1)}))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Infer(message())
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    metadata = (("authorization", f"Bearer {key}"),)
    await stub.Infer(message(), metadata=metadata)
    assert runtime.callers[0].name == "team"
    runtime.access.take(runtime.callers[0])
    for call in (stub.Infer(message(), metadata=metadata), stub.InferStream(message(), metadata=metadata).read()):
        code, _, details = await refused(call)
        assert (code, details.code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded")
        assert details.retry_after_ms > 0
    urgent = (*metadata, ("x-priority", "high"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Infer(message(), metadata=urgent)
    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
