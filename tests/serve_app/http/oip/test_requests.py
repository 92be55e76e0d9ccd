"""Bodies, written by hand, and the requests that they become."""

import base64
import json
from typing import Any

import pytest

from deployments.contract.errors import InvalidRequest
from deployments.contract.types import (
    ImageClassification,
    ImageClassificationResult,
    ObjectDetection,
    ObjectDetectionResult,
    TextGeneration,
    TextGenerationResult,
)
from serve_app.access.caller import DEADLINE_HEADER, PRIORITY_HEADER
from serve_app.http.oip.requests import Asked, Signature, asked_of

TEXT = Signature(TextGeneration, TextGenerationResult)
IMAGE = Signature(ImageClassification, ImageClassificationResult)
OBJECTS = Signature(ObjectDetection, ObjectDetectionResult)
PROMPT = {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["p"]}
LENGTH = {"name": "max_tokens", "shape": [1], "datatype": "UINT32", "data": [5]}


def asked(body: dict[str, Any], signature: Signature = TEXT) -> Asked:
    return asked_of(json.dumps(body).encode(), None, "m", signature)


def image(data: object, **parameters: object) -> dict[str, object]:
    return {"name": "image_data", "shape": [1], "datatype": "BYTES", "data": data, "parameters": parameters}


def test_inputs_become_the_fields_of_their_names() -> None:
    assert asked({"inputs": [PROMPT, LENGTH]}).requests == [TextGeneration(model_id="m", prompt="p", max_tokens=5)]


def test_each_row_becomes_a_request() -> None:
    prompts = PROMPT | {"shape": [2], "data": ["p", "q"]}
    lengths = LENGTH | {"shape": [2, 1], "data": [[5], [6]]}
    rows = [(one.prompt, one.max_tokens) for one in asked({"inputs": [prompts, lengths]}).requests]  # type: ignore[attr-defined]
    assert rows == [("p", 5), ("q", 6)]


def test_parameters_are_optional_fields_of_every_row() -> None:
    (one,) = asked({"inputs": [PROMPT], "parameters": {"max_tokens": 3, "temperature": 0.5, "stop": ["x"]}}).requests
    assert one == TextGeneration(model_id="m", prompt="p", max_tokens=3, temperature=0.5, stop=["x"])


def test_an_optional_field_may_come_as_a_tensor() -> None:
    threshold = {"name": "threshold", "shape": [1], "datatype": "FP64", "data": [0.25]}
    (one,) = asked({"inputs": [image(["YWI="]), threshold]}, OBJECTS).requests
    assert one == ObjectDetection(model_id="m", image_data=b"ab", threshold=0.25)


def test_bytes_are_base64_in_json() -> None:
    (one,) = asked({"inputs": [image([base64.b64encode(b"\xff\xd8").decode()])]}, IMAGE).requests
    assert one == ImageClassification(model_id="m", image_data=b"\xff\xd8")


def test_a_text_may_be_base64_where_it_says_so() -> None:
    prompt = PROMPT | {"data": ["aGV5"], "parameters": {"content_type": "base64"}}
    assert asked({"inputs": [prompt, LENGTH]}).requests[0].prompt == "hey"  # type: ignore[attr-defined]


def test_binary_inputs_follow_the_json_in_their_order() -> None:
    prompt = {"name": "prompt", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 7}}
    length = {"name": "max_tokens", "shape": [1], "datatype": "INT64", "parameters": {"binary_data_size": 8}}
    head = json.dumps({"inputs": [prompt, length]}).encode()
    raw = b"\x03\0\0\0hey" + b"\x07\0\0\0\0\0\0\0"
    (one,) = asked_of(head + raw, len(head), "m", TEXT).requests
    assert one == TextGeneration(model_id="m", prompt="hey", max_tokens=7)


def test_a_json_part_of_no_bytes_is_one_raw_input() -> None:
    asked = asked_of(b"\xff\xd8", 0, "m", IMAGE)
    assert (asked.requests, asked.binary) == ([ImageClassification(model_id="m", image_data=b"\xff\xd8")], True)
    with pytest.raises(InvalidRequest, match="prompt and max_tokens"):
        asked_of(b"hey", 0, "m", TEXT)


def test_an_output_is_binary_where_it_or_the_body_says_so() -> None:
    inputs = {"inputs": [PROMPT, LENGTH]}
    wanted = [{"name": "generated_text", "parameters": {"binary_data": False}}, {"name": "finish_reason"}]
    body = inputs | {"parameters": {"binary_data_output": True}, "outputs": wanted}
    assert asked(body).outputs == {"generated_text": False, "finish_reason": True}
    assert asked(inputs).outputs is None


def test_timeout_and_priority_are_those_of_the_headers() -> None:
    scheduling = asked({"inputs": [PROMPT, LENGTH], "parameters": {"timeout": 1500, "priority": 1}}).scheduling
    assert scheduling == {DEADLINE_HEADER: "2", PRIORITY_HEADER: "high"}
    assert asked({"inputs": [PROMPT, LENGTH], "parameters": {"timeout": 0, "priority": 0}}).scheduling == {}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ([], "JSON object"),
        ({}, "inputs: Field required"),
        ({"inputs": [PROMPT]}, "max_tokens"),
        ({"inputs": [LENGTH | {"name": "tokens"}]}, "no input 'tokens'; this model takes prompt, max_tokens"),
        ({"inputs": [PROMPT, PROMPT]}, "prompt: given twice"),
        ({"inputs": [PROMPT | {"datatype": "FP32"}]}, "prompt: datatype 'FP32' instead of BYTES"),
        ({"inputs": [LENGTH | {"datatype": "INT7"}]}, "max_tokens: datatype 'INT7' instead of UINT32"),
        ({"inputs": [PROMPT | {"shape": [-1]}]}, "inputs.0.shape.0"),
        ({"inputs": [PROMPT | {"shape": [2]}, LENGTH]}, "prompt: shape [2] with 1 element"),
        ({"inputs": [PROMPT | {"data": [5]}, LENGTH]}, "TextGeneration.prompt"),
        ({"inputs": [PROMPT, LENGTH | {"data": [-1]}]}, "TextGeneration.max_tokens"),
        ({"inputs": [PROMPT | {"shape": [2], "data": ["a", "b"]}, LENGTH]}, "first dimensions differ"),
        ({"inputs": [PROMPT | {"shape": [0], "data": []}]}, "1 to 1024 requests"),
        ({"inputs": [PROMPT, LENGTH], "parameters": {"prompt": "x"}}, "both an input and a parameter"),
        ({"inputs": [PROMPT, LENGTH], "outputs": [{"name": "logits"}]}, "no output 'logits'"),
        ({"inputs": [PROMPT, LENGTH], "parameters": {"timeout": -1}}, "timeout"),
        ({"inputs": [PROMPT | {"parameters": {"binary_data_size": 4}}]}, "binary_data_size"),
        ({"inputs": [PROMPT | {"parameters": {"shared_memory_region": "r"}}]}, "shared memory"),
        (
            {"inputs": [PROMPT, LENGTH], "outputs": [{"name": "generated_text", "parameters": {"classification": 2}}]},
            "classification",
        ),
    ],
)
def test_what_is_no_request_is_refused_by_its_name(body: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        asked(body)
    assert reason in str(refused.value)


@pytest.mark.parametrize("length", [3, 99])
def test_bytes_too_many_or_too_few_are_refused(length: int) -> None:
    with pytest.raises(InvalidRequest):
        asked_of(b'{"inputs": []}rest', length, "m", TEXT)
    with pytest.raises(InvalidRequest, match="belong to no input"):
        asked_of(b'{"inputs": []}rest', 14, "m", TEXT)
