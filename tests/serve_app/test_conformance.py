"""The same requests over /infer, gRPC and /v2, in one process: every protocol answers the same, failures included."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import httpx
import pytest

from deployments.contract import wire
from deployments.contract.errors import ERRORS
from deployments.contract.types import (
    Error,
    ImageClassification,
    ImageClassificationResult,
    InferRequest,
    InferResponse,
    ObjectDetection,
    ObjectDetectionResult,
    TextEmbedding,
    TextEmbeddingResult,
    TextGeneration,
    TextGenerationResult,
)
from serve_app.access.api_keys import AccessSettings, KeySettings, new_key
from serve_app.grpc.messages import from_message, to_message
from serve_app.grpc.server import GrpcServer
from serve_app.grpc.stubs import inference_pb2 as pb
from serve_app.grpc.stubs.inference_pb2_grpc import InferenceStub
from tests.support.entrances import grpc_error, v2_answer, v2_request
from tests.support.http_runtimes import SIGNATURES, FakeRuntime, http_app, responding, status

Ask = Callable[[InferRequest, dict[str, str]], Awaitable[InferResponse]]

TEXT = TextGeneration(model_id="text", prompt="é\n\0", max_tokens=5, temperature=0.25, seed=2**63)
PICTURE = ImageClassification(model_id="image", image_data=bytes(range(256)), top_k=0)
TABLE: dict[str, tuple[InferRequest, InferResponse]] = {
    "a text": (TEXT, TextGenerationResult(generated_text="𝄞\n", finish_reason="length")),
    "an empty text": (TEXT, TextGenerationResult(generated_text="", finish_reason="stop")),
    "a picture": (PICTURE, ImageClassificationResult(class_labels=["é", "é"], probabilities=[0.75, 0.25])),
    "objects": (
        ObjectDetection(model_id="detector", image_data=b"a", threshold=0.25),
        ObjectDetectionResult(class_labels=["cat", "dog"], scores=[0.5, 0.5], boxes=[(0, 1, 2, 3), (4, 5, 6, 7.5)]),
    ),
    "no objects": (
        ObjectDetection(model_id="detector", image_data=b"a"),
        ObjectDetectionResult(class_labels=[], scores=[], boxes=[]),
    ),
    "vectors": (
        TextEmbedding(model_id="encoder", texts=["é", "", "b"], dimensions=2, input_type="query", truncate=False),
        TextEmbeddingResult(embeddings=[[0.5, -1.0], [0.0, 0.25], [1.0, 1.0]]),
    ),
    **{code: (TEXT, Error.of(kind("why “it” failed"), "r-1")) for code, kind in ERRORS.items()},
}


@pytest.fixture
def runtime() -> FakeRuntime:
    runtime = FakeRuntime()
    runtime.statuses = [
        status("text", "text_generation"),
        status("image", "image_classification"),
        status("detector", "object_detection"),
        status("encoder", "text_embedding"),
    ]
    return runtime


@pytest.fixture
async def protocols(runtime: FakeRuntime) -> AsyncIterator[dict[str, Ask]]:
    server = GrpcServer("127.0.0.1:0", runtime.settings, runtime.access, runtime, runtime, SIGNATURES)
    await server.start()
    transport = httpx.ASGITransport(http_app(runtime), raise_app_exceptions=False)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://runtime") as http,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = InferenceStub(channel)  # type: ignore[no-untyped-call]

        async def over_infer(request: InferRequest, headers: dict[str, str]) -> InferResponse:
            body = wire.encode(request, wire.JSON)
            reply = await http.post("/infer", content=body, headers=headers | {"content-type": wire.JSON})
            return wire.decode(reply.content, wire.JSON, InferResponse)

        def over_v2(binary: bool) -> Ask:
            async def ask(request: InferRequest, headers: dict[str, str]) -> InferResponse:
                path, body, more = v2_request(request, binary)
                return v2_answer(request, await http.post(path, content=body, headers=headers | more))

            return ask

        async def over_grpc(request: InferRequest, headers: dict[str, str]) -> InferResponse:
            try:
                message = to_message(request, pb.InferRequest())
                return from_message(await stub.Infer(message, metadata=tuple(headers.items())), InferResponse)
            except grpc.aio.AioRpcError as failure:
                return grpc_error(failure)

        yield {"infer": over_infer, "grpc": over_grpc, "v2": over_v2(False), "v2-binary": over_v2(True)}
    await server.close()


def shown(answer: InferResponse) -> object:
    """What every protocol carries."""
    return (answer.code, answer.message) if isinstance(answer, Error) else answer


async def asked(protocols: dict[str, Ask], request: InferRequest, **headers: str) -> dict[str, Any]:
    answers = await asyncio.gather(*(ask(request, headers) for ask in protocols.values()))
    return dict(zip(protocols, map(shown, answers), strict=True))


@pytest.mark.parametrize("case", TABLE)
async def test_every_protocol_asks_and_answers_the_same(
    protocols: dict[str, Ask], runtime: FakeRuntime, case: str
) -> None:
    request, response = TABLE[case]
    runtime.script = responding(response)
    assert await asked(protocols, request) == dict.fromkeys(protocols, shown(response))
    assert runtime.asked == [request] * len(protocols)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (TEXT.model_copy(update={"temperature": -1.0}), "invalid_request"),
        (ObjectDetection.model_construct(model_id="detector", image_data=b"", threshold=1.5), "invalid_request"),
        (PICTURE.model_copy(update={"image_data": bytes(2**20)}), "payload_too_large"),
    ],
    ids=["a number", "another number", "size"],
)
async def test_every_protocol_refuses_the_same(
    protocols: dict[str, Ask], runtime: FakeRuntime, request_: InferRequest, code: str
) -> None:
    answers = await asked(protocols, request_)
    assert {name: answer[0] for name, answer in answers.items()} == dict.fromkeys(protocols, code)
    if code == "invalid_request":
        assert len({answer[1] for answer in answers.values()}) == 1
    assert runtime.asked == []


async def test_keys_priorities_and_deadlines_hold_on_every_protocol(
    protocols: dict[str, Ask], runtime: FakeRuntime
) -> None:
    key, sha256 = new_key()
    runtime.access.update(AccessSettings(keys={"team": KeySettings(sha256=sha256, tokens_per_day=1)}))
    runtime.script = responding(TextGenerationResult(generated_text=""))

    async def codes(**headers: str) -> set[object]:
        answers = await asked(protocols, TEXT, **headers)
        return {answer[0] if isinstance(answer, tuple) else "ok" for answer in answers.values()}

    bearer = {"authorization": f"Bearer {key}"}
    assert await codes() == {"unauthenticated"}
    assert await codes(authorization="Bearer none") == {"unauthenticated"}
    assert await codes(**bearer) == {"ok"}
    assert await codes(**bearer, **{"x-priority": "high"}) == {"permission_denied"}
    assert await codes(**bearer, **{"x-deadline-ms": "soon"}) == {"invalid_request"}
    await codes(**bearer, **{"x-deadline-ms": "5000"})
    assert all(caller.deadline_at is not None for caller in runtime.callers[-len(protocols) :])
    runtime.access.spend(runtime.callers[-1], 1)
    assert await codes(**bearer) == {"overloaded"}


async def test_the_callers_trace_is_known_on_every_protocol(protocols: dict[str, Ask], runtime: FakeRuntime) -> None:
    runtime.script = responding(TextGenerationResult(generated_text=""))
    await asked(protocols, TEXT, traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    assert runtime.traceparents == ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"] * len(protocols)
