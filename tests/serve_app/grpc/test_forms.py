"""The fields of protocol buffers that stand for types of the contract."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from deployments.contract.scalars import U32, U64, Box, Text, TokenId
from serve_app.grpc.forms import form_of


class Part(BaseModel):
    name: str


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (Text, " string"),
        (bytes, " bytes"),
        (U32, " uint32"),
        (U64, " uint64"),
        (int, " int64"),
        (float, " double"),
        (Literal["a", "b"], " string"),
        (list[str], "repeated string"),
        (tuple[str, str], "repeated string"),
        (list[U32], "repeated uint32"),
        (list[Box], "repeated Doubles"),
        (list[list[float]], "repeated Doubles"),
        (dict[TokenId, Annotated[float, Field(ge=-1)]], "map map<uint32, double>"),
        (Part, " Part"),
        (list[Part], "repeated Part"),
        (dict[str, Any], " string JSON"),
        (list[dict[str, Any]], " string JSON"),
        (Text | Annotated[list[Text], Field(max_length=3)], "repeated string"),
    ],
)
def test_a_type_has_its_form(annotation: Any, expected: str) -> None:
    for given in (annotation, annotation | None):
        form = form_of(FieldInfo.from_annotation(given))
        assert f"{form.label} {form.kind}{' JSON' if form.is_json else ''}" == expected


def test_a_field_with_a_default_is_optional_unless_it_is_repeated() -> None:
    class Fields(BaseModel):
        number: int | None = None
        numbers: list[int] | None = None

    labels = [form_of(info).label for info in Fields.model_fields.values()]
    assert labels == ["optional", "repeated"]


def test_numbers_of_the_union_itself_are_f32() -> None:
    assert form_of(FieldInfo.from_annotation(list[float]), is_own=True).kind == "float"
    assert form_of(FieldInfo.from_annotation(list[Box]), is_own=True).kind == "Floats"
