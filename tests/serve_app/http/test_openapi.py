"""The OpenAPI document names what is served. tests/hostile compares the runtime with it."""

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as some
from starlette.routing import Route
from starlette.testclient import TestClient

from deployments.contract.errors import ERRORS
from deployments.contract.types import ImageClassification, InferRequest, InferResponse, TextGeneration
from deployments.contract.wire import from_object
from deployments.families.image_classification.family import IMAGE_CLASSIFICATION
from deployments.families.object_detection.family import OBJECT_DETECTION
from deployments.replica.family import Form
from serve_app.http.openapi import openapi_document
from tests.support.http_runtimes import FakeRuntime, http_app

assert IMAGE_CLASSIFICATION.form
IMAGE = IMAGE_CLASSIFICATION.form
AUDIO = Form(TextGeneration, "audio", "audio_data")


def form_schema(*forms: Form) -> Any:
    content = openapi_document((), forms)["paths"]["/infer"]["post"]["requestBody"]["content"]
    return content.get("multipart/form-data", {}).get("schema")


def test_a_form_has_its_file_and_its_integers() -> None:
    schema = form_schema(IMAGE)
    assert schema["required"] == ["model_id", "image"]
    assert schema["properties"].keys() == {"model_id", "image", "top_k"}


def test_a_form_has_its_numbers_from_0_to_1() -> None:
    assert OBJECT_DETECTION.form
    fields = form_schema(OBJECT_DETECTION.form)["properties"]
    assert fields.keys() == {"model_id", "picture", "top_k", "threshold"}
    pattern = re.compile(fields["threshold"]["pattern"])
    given = ("0", "1", "0.25", "1.0", "1.5", "2", "-0.5", "nan")
    assert [one for one in given if pattern.match(one)] == ["0", "1", "0.25", "1.0"]


def test_several_forms_are_alternatives_and_none_is_left_out() -> None:
    assert form_schema(IMAGE, AUDIO) == {"anyOf": [form_schema(IMAGE), form_schema(AUDIO)]}
    assert form_schema() is None


def test_the_document_has_every_route(http: TestClient) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    routes = [route for route in http_app(FakeRuntime()).routes if isinstance(route, Route) and route.include_in_schema]
    assert paths.keys() == {route.path.replace(":path", "") for route in routes}


def test_the_document_has_every_variant_and_status(http: TestClient) -> None:
    document = http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert {*InferRequest.variants, *InferResponse.variants} <= schemas.keys()
    assert schemas["TextGeneration"]["required"] == ["model_id", "prompt", "max_tokens"]
    answers = document["paths"]["/infer"]["post"]["responses"]
    assert {str(kind.status) for kind in ERRORS.values()} <= answers.keys()
    boxes = schemas["ObjectDetectionResult"]["properties"]["boxes"]["items"]
    assert boxes["prefixItems"] == [{"type": "number"}] * 4
    for path, statuses in (("/readyz", {"200", "503"}), ("/healthz", {"200"}), ("/models", set())):
        responses = document["paths"][path]["get"]["responses"]
        assert {status for status, answer in responses.items() if "text/plain" in answer["content"]} == statuses


def test_every_string_that_the_document_allows_for_bytes_is_taken() -> None:
    schemas: Any = openapi_document((), (IMAGE,))["components"]["schemas"]
    text, _ = schemas["ImageClassification"]["properties"]["image_data"]["anyOf"]

    @given(some.from_regex(text["pattern"]))
    def is_taken(image_data: str) -> None:
        request = {"ImageClassification": {"model_id": "m", "image_data": image_data}}
        assert isinstance(from_object(request, InferRequest), ImageClassification)

    is_taken()
