"""The protocol's RPCs over a real channel, raw and with typed contents."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from deployments.contract.errors import Overloaded
from deployments.contract.types import ImageClassification, TextGeneration
from serve_app.access.api_keys import AccessSettings, KeySettings, new_key
from serve_app.access.caller import Priority
from serve_app.grpc.stubs import open_inference_pb2 as pb
from tests.serve_app.grpc.test_service import refused
from tests.serve_app.http.oip.conftest import script
from tests.support.http_runtimes import FakeRuntime, responding, status

Rpc = Callable[..., Any]


@pytest.fixture
def runtime() -> FakeRuntime:
    runtime = FakeRuntime(script)
    failed = status("broken", "text_generation").model_copy(update={"state": "failed", "reason": "no weights"})
    runtime.statuses = [status("team/m", "text_generation", [1, 2]), status("image", "image_classification"), failed]
    return runtime


@pytest.fixture
def rpc(channel: Any) -> Rpc:
    def call(name: str, request: Any, **options: Any) -> Any:
        answer = getattr(pb, f"{name}Response")
        method = channel.unary_unary(
            f"/inference.GRPCInferenceService/{name}", type(request).SerializeToString, answer.FromString
        )
        return method(request, **options)

    return call


def text(prompt: bytes = b"p", **fields: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="team/m", **fields)
    request.inputs.add(name="prompt", datatype="BYTES", shape=[1]).contents.bytes_contents.append(prompt)
    request.inputs.add(name="max_tokens", datatype="INT32", shape=[1]).contents.int_contents.append(5)
    return request


async def test_server_and_models_say_how_they_are(rpc: Rpc, runtime: FakeRuntime) -> None:
    assert (await rpc("ServerLive", pb.ServerLiveRequest())).live
    assert (await rpc("ServerReady", pb.ServerReadyRequest())).ready
    assert (await rpc("ServerMetadata", pb.ServerMetadataRequest())).name == "model-runtime"
    ready = {
        name: (await rpc("ModelReady", pb.ModelReadyRequest(name=name, version=version))).ready
        for name, version in (("team/m", "2"), ("image", ""), ("image", "7"), ("broken", ""), ("none", ""))
    }
    assert ready == {"team/m": True, "image": False, "broken": False, "none": False}
    metadata = await rpc("ModelMetadata", pb.ModelMetadataRequest(name="team/m"))
    assert [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs] == [
        ("prompt", "BYTES", [-1]),
        ("max_tokens", "UINT32", [-1]),
    ]
    code, message, _ = await refused(rpc("ModelMetadata", pb.ModelMetadataRequest(name="none")))
    assert (code, message) == (grpc.StatusCode.NOT_FOUND, "there is no model 'none'")


async def test_typed_contents_are_answered_with_typed_contents(rpc: Rpc, runtime: FakeRuntime) -> None:
    asked = text("é".encode(), model_version="2", id="7")
    asked.parameters["temperature"].double_param = 0.5
    answer = await rpc("ModelInfer", asked)
    assert runtime.asked == [TextGeneration(model_id="team/m@2", prompt="é", max_tokens=5, temperature=0.5)]
    assert (answer.model_name, answer.model_version, answer.id) == ("team/m", "2", "7")
    assert [(one.name, list(one.contents.bytes_contents)) for one in answer.outputs] == [
        ("generated_text", ["é×5".encode()]),
        ("finish_reason", [b"stop"]),
    ]


async def test_raw_contents_are_answered_raw(rpc: Rpc, runtime: FakeRuntime) -> None:
    asked = pb.ModelInferRequest(model_name="image", raw_input_contents=[b"\x02\0\0\0\xff\xd8\x01\0\0\0a"])
    asked.inputs.add(name="image_data", datatype="BYTES", shape=[2])
    asked.parameters["top_k"].int64_param = 1
    asked.outputs.add(name="probabilities")
    answer = await rpc("ModelInfer", asked)
    assert [one.image_data for one in runtime.asked if isinstance(one, ImageClassification)] == [b"\xff\xd8", b"a"]
    assert [(one.name, list(one.shape)) for one in answer.outputs] == [("probabilities", [2, 1])]
    assert answer.raw_output_contents == [b"\0\0\0\x3f" * 2]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda one: one.raw_input_contents.append(b""), "2 inputs with 1 raw_input_contents"),
        (lambda one: one.inputs[0].shape.append(-1), "no negative sizes"),
        (lambda one: one.inputs[0].contents.Clear(), "prompt: shape [1] with 0 elements"),
        (lambda one: one.inputs[1].contents.int_contents.__setitem__(0, -5), "TextGeneration.max_tokens"),
        (lambda one: one.outputs.add(name="logits"), "no output 'logits'"),
    ],
)
async def test_what_is_no_request_is_refused(rpc: Rpc, change: Callable[[Any], Any], reason: str) -> None:
    asked = text()
    change(asked)
    code, message, details = await refused(rpc("ModelInfer", asked))
    assert (code, details.code) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_request")
    assert reason in message


async def test_errors_sizes_keys_and_scheduling_hold(rpc: Rpc, runtime: FakeRuntime) -> None:
    code, _, details = await refused(rpc("ModelInfer", text(b"x" * 2**20)))
    assert (code, details.code) == (grpc.StatusCode.INVALID_ARGUMENT, "payload_too_large")
    urgent = text()
    urgent.parameters["priority"].int64_param = 1
    urgent.parameters["timeout"].int64_param = 5_000_000
    await rpc("ModelInfer", urgent)
    assert runtime.callers[-1].priority is Priority.HIGH
    assert runtime.callers[-1].deadline_at is not None
    runtime.script = responding(Overloaded("full"))
    code, message, details = await refused(rpc("ModelInfer", text()))
    assert (code, message, details.retryable) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "full", True)
    runtime.access.update(AccessSettings(keys={"team": KeySettings(sha256=new_key()[1])}))
    code, _, details = await refused(rpc("ModelInfer", text()))
    assert (code, details.code) == (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")
