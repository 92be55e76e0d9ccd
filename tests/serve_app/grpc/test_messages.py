"""Requests and responses through protocol buffers and back."""

from typing import Any

import pytest

from deployments.contract.chat import Message, ToolCall
from deployments.contract.errors import InvalidRequest, Overloaded
from deployments.contract.text_generation import Alternative, TokenLogprob, Usage
from deployments.contract.types import (
    Error,
    ImageClassification,
    ImageClassificationResult,
    InferRequest,
    InferResponse,
    ObjectDetection,
    ObjectDetectionResult,
    TextGeneration,
    TextGenerationResult,
    Variant,
)
from serve_app.grpc.messages import from_message, name_of, to_message
from serve_app.grpc.stubs import inference_pb2 as pb
from tests.support.echo import Echo

CALL = ToolCall.model_validate({"id": "1", "function": {"name": "f", "arguments": "{}"}})
BEST = Alternative(token="a", logprob=-0.1, utf8=[97])
REQUESTS = [
    ImageClassification(model_id="m", image_data=b"\xff\x00"),
    ImageClassification(model_id="m", image_data=b"", top_k=0),
    ObjectDetection(model_id="m", image_data=b"a", threshold=0.1, top_k=3),
    TextGeneration(model_id="m", prompt="é", max_tokens=2**32 - 1, seed=2**64 - 1, temperature=0.7, stream=False),
    TextGeneration(
        model_id="m", prompt="", max_tokens=0, logit_bias={5: -1.5}, stop=["x"], json_schema={"type": "object"}
    ),
    TextGeneration(
        model_id="m",
        prompt="",
        max_tokens=1,
        messages=[Message(role="user", content="hi"), Message(role="assistant", content="", tool_calls=[CALL])],
        tools=[{"type": "function", "function": {"name": "f", "parameters": {"minimum": 1}}}],
    ),
    Echo(model_id="any", text="é"),
]
RESPONSES = [
    ImageClassificationResult(class_labels=["a", "a"], probabilities=[0.5, 0.25], model_id="m@1"),
    ObjectDetectionResult(class_labels=["a"], scores=[0.5], boxes=[(0.0, 1.0, 2.0, 3.5)]),
    ObjectDetectionResult(class_labels=[], scores=[], boxes=[]),
    TextGenerationResult(
        generated_text="a",
        finish_reason="stop",
        usage=Usage(prompt_tokens=0, completion_tokens=1),
        logprobs=[TokenLogprob(**BEST.model_dump(), top=[BEST])],
    ),
    Error.of(Overloaded("full"), "r-1"),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: type(one).__name__)
def test_a_request_is_the_same_after_its_message(request_: InferRequest) -> None:
    message = to_message(request_, pb.InferRequest())
    assert from_message(pb.InferRequest.FromString(message.SerializeToString()), InferRequest) == request_


@pytest.mark.parametrize("response", RESPONSES, ids=lambda one: type(one).__name__)
def test_a_response_is_the_same_after_its_message(response: InferResponse) -> None:
    message = to_message(response, pb.InferResponse())
    assert from_message(pb.InferResponse.FromString(message.SerializeToString()), InferResponse) == response


def test_a_variant_that_the_file_does_not_have_is_json() -> None:
    assert to_message(REQUESTS[-1], pb.InferRequest()).other == '{"Echo":{"model_id":"any","text":"é"}}'.encode()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (pb.InferRequest(), "exactly one variant, one of image_classification"),
        (pb.InferRequest(other=b"{"), "malformed JSON"),
        (pb.InferRequest(object_detection=pb.ObjectDetection(threshold=2)), "ObjectDetection.threshold"),
        (pb.InferRequest(text_generation=pb.TextGeneration(json_schema="{")), "malformed JSON"),
        (pb.InferRequest(text_generation=pb.TextGeneration(messages=[pb.Message(role="x")])), "messages.0.role"),
    ],
)
def test_what_is_no_request_is_refused(message: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        from_message(message, InferRequest)


@pytest.mark.parametrize(("kind", "name"), [(TextGeneration, "text_generation"), (Error, "error"), (Echo, "echo")])
def test_a_variants_field_is_its_name_in_lower_case(kind: type[Variant], name: str) -> None:
    assert name_of(kind) == name
