"""bincode 1.x with its default options: little-endian, u64 lengths, u32 variant indices, no padding.

The form of a value follows from the type of its field: `str` and `bytes` behind their length, `int` as u32 (u64 where
the field's upper bound is beyond u32), `float` as f32, `bool` as one byte, `list[T]` behind its length, `tuple[T, T]`
as a fixed array without a length, a BaseModel as its fields in order. A field with a default is not carried.
"""

import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from deployments.contract.errors import InvalidRequest
from deployments.contract.scalars import U32_MAX, upper_bound


class Reader:
    """Takes values off the front of a body. A length is compared with what is left before memory is allocated for it.

    Raises InvalidRequest.
    """

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def take(self, size: int) -> bytes:
        if size > len(self.body) - self.at:
            raise InvalidRequest(f"malformed bincode: {size} bytes wanted at byte {self.at}, beyond the body's end")
        self.at += size
        return self.body[self.at - size : self.at]

    def length(self, unit: int) -> int:
        """A count of elements of at least `unit` bytes each."""
        count = int.from_bytes(self.take(8), "little")
        if count * unit > len(self.body) - self.at:
            raise InvalidRequest(f"malformed bincode: length {count} at byte {self.at - 8} is beyond the body's end")
        return count

    def end(self) -> None:
        if self.at < len(self.body):
            raise InvalidRequest(f"malformed bincode: {len(self.body) - self.at} trailing bytes")


class Form(NamedTuple):
    """How values of one type are read and written."""

    least_bytes: int
    """The fewest bytes that a value takes."""
    read: Callable[[Reader], Any]
    write: Callable[[Any], bytes]
    number: str = ""
    """A number's format character for `struct`."""


def read_fields(kind: type[BaseModel], reader: Reader) -> dict[str, object]:
    return {name: form.read(reader) for name, form in _forms(kind).items()}


def write_fields(value: BaseModel) -> bytes:
    return b"".join(form.write(getattr(value, name)) for name, form in _forms(type(value)).items())


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


@cache
def _forms(kind: type[BaseModel]) -> dict[str, Form]:
    return {name: _form(info) for name, info in kind.model_fields.items() if info.is_required()}


def _form(info: FieldInfo) -> Form:
    """Raises TypeError for a type that has no form."""
    kind, inner = info.annotation, get_args(info.annotation)
    if kind is int and (upper_bound(info) or 0) > U32_MAX:
        return _number("Q")
    if kind in _PLAIN:
        return _PLAIN[kind]
    if get_origin(kind) is list:
        return _list(_form(FieldInfo.from_annotation(inner[0])))
    if get_origin(kind) is tuple and Ellipsis not in inner:
        return _array([_form(FieldInfo.from_annotation(one)) for one in inner])
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        least = sum(form.least_bytes for form in _forms(kind).values())
        return Form(least, lambda reader: read_fields(kind, reader), write_fields)
    raise TypeError(f"bincode has no form for {kind}")


def _number(character: str) -> Form:
    form = struct.Struct(f"<{character}")
    return Form(form.size, lambda reader: form.unpack(reader.take(form.size))[0], form.pack, character)


def _list(item: Form) -> Form:
    # An item without bytes still counts as one: a length must not cost more memory than it has bytes.
    unit = max(item.least_bytes, 1)

    def read(reader: Reader) -> list[Any]:
        count = reader.length(unit)
        if item.number:  # all at once: tens of times as fast
            return list(struct.unpack(f"<{count}{item.number}", reader.take(count * unit)))
        return [item.read(reader) for _ in range(count)]

    def write(values: Sequence[Any]) -> bytes:
        if item.number:
            return _length(values) + struct.pack(f"<{len(values)}{item.number}", *values)
        return _length(values) + b"".join(map(item.write, values))

    return Form(8, read, write)


def _array(items: Sequence[Form]) -> Form:
    return Form(
        sum(item.least_bytes for item in items),
        lambda reader: tuple(item.read(reader) for item in items),
        lambda values: b"".join(item.write(value) for item, value in zip(items, values, strict=True)),
    )


def _length(value: Sequence[Any]) -> bytes:
    return len(value).to_bytes(8, "little")


def _read_bytes(reader: Reader) -> bytes:
    return reader.take(reader.length(1))


def _read_text(reader: Reader) -> str:
    start = reader.at
    try:
        return _read_bytes(reader).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest(f"malformed bincode: the string at byte {start} is not UTF-8") from None


def _read_bool(reader: Reader) -> bool:
    value = reader.take(1)[0]
    if value > 1:
        raise InvalidRequest(f"malformed bincode: the byte {value} at {reader.at - 1} is no boolean")
    return bool(value)


def _write_bytes(value: bytes) -> bytes:
    return _length(value) + value


_PLAIN: dict[object, Form] = {
    str: Form(8, _read_text, lambda text: _write_bytes(text.encode())),
    bytes: Form(8, _read_bytes, _write_bytes),
    bool: Form(1, _read_bool, lambda value: bytes([value])),
    int: _number("I"),
    float: _number("f"),
}
