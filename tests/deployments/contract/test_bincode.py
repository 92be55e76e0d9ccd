"""bincode 1.x by the types of the fields, against bytes that were written by hand after its rules."""

import struct
from collections.abc import Sequence
from typing import Annotated

import pytest
from pydantic import BaseModel, Field

from deployments.contract import bincode, wire
from deployments.contract.errors import InvalidRequest
from deployments.contract.scalars import U32, U64, Text
from deployments.contract.types import Variant


class Shapes(Variant):
    """A union of this test alone."""


class Span(BaseModel):
    text: Text
    start: U32
    note: str | None = None


class Detected(Shapes, index=3):
    """All that a union's own fields may be."""

    labels: list[str]
    boxes: list[tuple[float, float, float, float]]
    rows: list[list[float]]
    spans: list[Span]
    whole: Span
    size: tuple[U32, bool]
    seed: U64
    pieces: list[bytes]
    scores: list[float] | None = None


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def f32(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def text(value: bytes) -> bytes:
    return u64(len(value)) + value


DETECTED = Detected(
    labels=["cat", "é"],
    boxes=[(0.0, 0.5, 1.0, 2.0), (-1.0, 0.25, 8.0, 3.0)],
    rows=[[1.0, 2.0], [], [0.5]],
    spans=[Span(text="a", start=1, note="not carried"), Span(text="", start=2**32 - 1)],
    whole=Span(text="all", start=0),
    size=(7, True),
    seed=2**64 - 1,
    pieces=[b"", b"\0\xff"],
)
BYTES = b"".join(
    [
        u32(3),
        u64(2) + text(b"cat") + text(b"\xc3\xa9"),
        u64(2) + f32(0.0, 0.5, 1.0, 2.0) + f32(-1.0, 0.25, 8.0, 3.0),
        u64(3) + (u64(2) + f32(1.0, 2.0)) + u64(0) + (u64(1) + f32(0.5)),
        u64(2) + (text(b"a") + u32(1)) + (text(b"") + u32(2**32 - 1)),
        text(b"all") + u32(0),
        u32(7) + b"\x01",
        u64(2**64 - 1),
        u64(2) + text(b"") + text(b"\0\xff"),
    ]
)


def test_nested_structures_lists_and_arrays_are_written_by_the_rules() -> None:
    assert wire.encode(DETECTED, wire.BINCODE) == BYTES


def test_what_is_written_is_read_but_for_the_extras() -> None:
    read = wire.decode(BYTES, wire.BINCODE, Shapes)
    spans = [Span(text="a", start=1), Span(text="", start=2**32 - 1)]
    assert read == DETECTED.model_copy(update={"spans": spans})


@pytest.mark.parametrize("media_type", [wire.JSON, wire.MSGPACK])
def test_the_other_formats_carry_the_same_types(media_type: str) -> None:
    full = DETECTED.model_copy(update={"scores": [0.5]})
    assert wire.decode(wire.encode(full, media_type), media_type, Shapes) == full


def test_an_array_of_another_length_is_refused_by_its_place() -> None:
    body = wire.encode(DETECTED, wire.JSON).replace(b"[0.0,0.5,1.0,2.0]", b"[0.0,0.5,1.0]")
    with pytest.raises(InvalidRequest, match=r"Detected\.boxes\.0"):
        wire.decode(body, wire.JSON, Shapes)


def test_a_wrong_element_is_refused_by_its_place() -> None:
    body = wire.encode(DETECTED, wire.JSON)
    with pytest.raises(InvalidRequest, match=r"Detected\.boxes\.0\.1"):
        wire.decode(body.replace(b"[0.0,0.5,", b'[0.0,"x",'), wire.JSON, Shapes)
    with pytest.raises(InvalidRequest, match=r"Detected\.pieces\.1"):
        wire.decode(body.replace(b'"AP8="', b'"A"'), wire.JSON, Shapes)


@pytest.mark.parametrize("cut", range(len(BYTES)))
def test_a_body_that_ends_early_is_refused(cut: int) -> None:
    with pytest.raises(InvalidRequest, match="malformed bincode"):
        wire.decode(BYTES[:cut], wire.BINCODE, Shapes)


def test_bytes_after_the_end_and_odd_booleans_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="1 trailing bytes"):
        wire.decode(BYTES + b"\0", wire.BINCODE, Shapes)
    with pytest.raises(InvalidRequest, match="no boolean"):
        wire.decode(BYTES.replace(u32(7) + b"\x01", u32(7) + b"\x02"), wire.BINCODE, Shapes)


class Empty(BaseModel):
    """Has no bytes."""


class Lists(BaseModel):
    empty: list[Empty]


def test_a_length_of_items_without_bytes_is_not_believed_either() -> None:
    with pytest.raises(InvalidRequest, match="beyond the body's end"):
        bincode.read_fields(Lists, bincode.Reader(u64(2**40)))


class Odd(BaseModel):
    odd: dict[str, int]


class Endless(BaseModel):
    endless: tuple[int, ...]


@pytest.mark.parametrize("kind", [Odd, Endless])
def test_a_type_without_a_form_is_a_mistake_of_the_contract(kind: type[BaseModel]) -> None:
    with pytest.raises(TypeError, match="bincode has no form for"):
        bincode.read_fields(kind, bincode.Reader(b""))


class Bounded(BaseModel):
    small: Annotated[int, Field(ge=0, le=9)]
    large: Annotated[int, Field(ge=0, le=2**40)]


def test_the_upper_bound_of_a_number_tells_its_width() -> None:
    assert bincode.write_fields(Bounded(small=1, large=2)) == u32(1) + u64(2)


@pytest.mark.parametrize("values", [[], [0.5], [1e-3] * 1000])
def test_lists_of_numbers_are_f32(values: Sequence[float]) -> None:
    class Probabilities(BaseModel):
        values: list[float]

    written = bincode.write_fields(Probabilities(values=list(values)))
    assert written == u64(len(values)) + f32(*values)
    assert bincode.read_fields(Probabilities, bincode.Reader(written))["values"] == pytest.approx(values)
