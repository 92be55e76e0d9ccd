"""The OpenAPI document has the forms of the families; its page shows fields of every type that bincode has."""

from typing import Any

import pytest

from deployments.contract.types import TextGeneration
from deployments.families.image_classification.family import IMAGE_CLASSIFICATION
from deployments.replica.family import Form
from serve_app.http.openapi import openapi_document, openapi_page

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


def test_several_forms_are_alternatives_and_none_is_left_out() -> None:
    assert form_schema(IMAGE, AUDIO) == {"oneOf": [form_schema(IMAGE), form_schema(AUDIO)]}
    assert form_schema() is None


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        ({"type": "array", "items": {"type": "string"}}, "list of string"),
        (
            {"type": "array", "items": {"type": "array", "prefixItems": [{"type": "number"}] * 2}},
            "list of [number, number]",
        ),
        ({"anyOf": [{"$ref": "#/components/schemas/Span"}, {"type": "null"}]}, "Span"),
        ({"type": "integer", "minimum": 0, "maximum": 9}, "integer ≥ 0 ≤ 9"),
    ],
)
def test_the_page_shows_the_type_of_each_field(field: dict[str, Any], shown: str) -> None:
    schemas = {"Detected": {"properties": {"field": field}}}
    assert f"<td>{shown}</td>" in openapi_page({"paths": {}, "components": {"schemas": schemas}})
