"""Tensors read off the contract's types, and their bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from deployments.contract.errors import InvalidRequest
from deployments.contract.types import ImageClassificationResult, ObjectDetectionResult, TextGeneration
from deployments.families.table import FAMILIES
from deployments.replica.family import Family
from serve_app.http.oip.tensors import Tensor, flat, flattened, nested, packed, tensors_of, unpacked


def shown(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {name: f"{one.datatype}{list(one.dims)}" for name, one in tensors.items() if one.required}


def test_a_familys_tensors_are_the_fields_of_its_union() -> None:
    assert shown(tensors_of(TextGeneration)) == {"prompt": "BYTES[]", "max_tokens": "UINT32[]"}
    assert shown(tensors_of(ImageClassificationResult)) == {"class_labels": "BYTES[-1]", "probabilities": "FP32[-1]"}
    boxes = tensors_of(ObjectDetectionResult)["boxes"]
    assert (boxes.datatype, boxes.dims) == ("FP32", (-1, 4))


def test_an_optional_field_is_a_tensor_where_its_type_has_one() -> None:
    tensors = tensors_of(TextGeneration)
    assert (tensors["temperature"].datatype, tensors["seed"].datatype) == ("FP32", "UINT64")
    assert tensors["prompt_ids"].dims == (-1,)
    assert not {"messages", "stop", "json_schema", "model_id"} & tensors.keys()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_has_tensors_for_what_it_needs_and_gives(family: Family) -> None:
    needed = {name for name, info in family.request.model_fields.items() if info.is_required()} - {"model_id"}
    assert needed <= tensors_of(family.request).keys()
    assert tensors_of(family.result)


@given(some.lists(some.binary(max_size=9), max_size=5))
def test_strings_keep_through_their_bytes(strings: list[bytes]) -> None:
    assert unpacked(packed(strings, "BYTES"), "BYTES") == strings


@given(some.lists(some.integers(-(2**15), 2**15 - 1)))
def test_numbers_keep_through_their_bytes(numbers: list[int]) -> None:
    assert unpacked(packed(numbers, "INT16"), "INT16") == numbers


@pytest.mark.parametrize("raw", [b"\x01", b"\x02\0\0\0a", b"\xff\xff\xff\xffabc"])
def test_a_length_beyond_the_end_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest, match="beyond"):
        unpacked(raw, "BYTES")


def test_bytes_that_are_no_whole_number_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="whole number"):
        unpacked(b"abc", "FP32")


@given(some.integers(1, 3), some.integers(0, 3), some.integers(1, 3))
def test_nesting_is_undone_by_flattening(rows: int, columns: int, depth: int) -> None:
    elements = list(range(rows * columns * depth))
    assert flattened(nested(elements, (rows, columns, depth)), 3)[1] == elements


def test_rows_of_different_lengths_are_no_tensor() -> None:
    with pytest.raises(ValueError, match="different"):
        flattened([[1], [1, 2]], 2)


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]], [[[1], [2]], [[3], [4]]]])
def test_json_may_be_nested_or_not(data: object) -> None:
    assert flat(data) == [1, 2, 3, 4]


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_a_field_without_dimensions_takes_a_row_a_request(shape: list[int]) -> None:
    assert tensors_of(TextGeneration)["prompt"].values(shape, ["a", "b"]) == ["a", "b"]


@pytest.mark.parametrize("shape", [[], [3], [1, 2], [2, 2], [2, 0], [0]])
def test_a_shape_that_does_not_hold_the_elements_is_refused(shape: list[int]) -> None:
    with pytest.raises(InvalidRequest, match="shape"):
        tensors_of(TextGeneration)["prompt"].values(shape, ["a", "b"])
