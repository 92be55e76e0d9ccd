"""The tensors of the protocol, read off the fields of the contract's unions. Knows no HTTP and no JSON.

A field of text or bytes is BYTES, of whole numbers UINT32 (UINT64 or INT64 by its bounds), of numbers FP32, of booleans
BOOL. A list adds a dimension of any size, a tuple one of its own size. Every tensor's first dimension counts requests.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from deployments.contract.errors import InvalidRequest, quoted
from deployments.contract.scalars import U32_MAX, upper_bound
from deployments.contract.types import Variant

BYTES = "BYTES"
_FORMATS = {
    "BOOL": "?",
    **{f"UINT{bits}": character for bits, character in ((8, "B"), (16, "H"), (32, "I"), (64, "Q"))},
    **{f"INT{bits}": character for bits, character in ((8, "b"), (16, "h"), (32, "i"), (64, "q"))},
    **{f"FP{bits}": character for bits, character in ((16, "e"), (32, "f"), (64, "d"))},
}
"""By datatype, the format of `struct`, little-endian."""
_LENGTH = struct.Struct("<I")
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A field as a tensor. `dims`: of one request, -1 where any size is taken."""

    name: str
    kind: type
    """Of an element: str, bytes, bool, int or float."""
    datatype: str
    dims: Shape
    required: bool

    @property
    def metadata(self) -> dict[str, object]:
        return {"name": self.name, "datatype": self.datatype, "shape": [-1, *self.dims]}

    def takes(self, datatype: str) -> bool:
        """Numbers are taken in every width: the field's own bounds are checked afterwards."""
        if self.kind is int:
            return "INT" in datatype and datatype in _FORMATS
        return datatype.startswith("FP") and datatype in _FORMATS if self.kind is float else datatype == self.datatype

    def values(self, shape: Sequence[int], elements: Sequence[object]) -> list[object]:
        """One value of the field for each request. Raises InvalidRequest.

        A field without dimensions may come as [n, 1], as clients of models with batches write it, and as [].
        """
        dims = tuple(shape)
        if not self.dims and dims in ((), (len(elements), 1)):
            dims = dims[:1] or (1,)
        fits = len(dims) == 1 + len(self.dims) and all(
            want in (-1, size) for want, size in zip(self.dims, dims[1:], strict=True)
        )
        if not fits or math.prod(dims) != len(elements):
            held = f"{len(elements)} element{'' if len(elements) == 1 else 's'}"
            raise InvalidRequest(
                f"{self.name}: shape {list(shape)} with {held} is not {self.metadata['shape']}, one row a request"
            )
        return nested(elements, dims)


@cache
def tensors_of(kind: type[Variant]) -> dict[str, Tensor]:
    """By name, in the order of the fields. The model is named by the path; a field of another form is a parameter."""
    tensors = (_tensor(name, info) for name, info in kind.model_fields.items() if name != "model_id")
    return {tensor.name: tensor for tensor in tensors if tensor is not None}


def _tensor(name: str, info: FieldInfo) -> Tensor | None:
    element, dims = _element(info.annotation)
    if element not in (str, bytes, bool, int, float):
        return None
    datatype = {str: BYTES, bytes: BYTES, bool: "BOOL", float: "FP32"}.get(element) or _integer(info)
    return Tensor(name, element, datatype, dims, info.is_required())


def _element(annotation: Any) -> tuple[Any, Shape]:
    """What a value is made of, and in which dimensions."""
    origin, inner = get_origin(annotation), [one for one in get_args(annotation) if one is not type(None)]
    if origin is Annotated or (origin in (Union, UnionType) and len(inner) == 1):
        return _element(inner[0])
    if origin is list:
        element, dims = _element(inner[0])
        return element, (-1, *dims)
    if origin is tuple and Ellipsis not in inner and len(set(inner)) == 1:
        element, dims = _element(inner[0])
        return element, (len(inner), *dims)
    return annotation, ()


def _integer(info: FieldInfo) -> str:
    bound = upper_bound(info)
    if bound is None:
        return "INT64"
    return "UINT32" if bound <= U32_MAX else "UINT64"


def nested(elements: Sequence[object], dims: Shape) -> list[Any]:
    """Elements in row-major order as lists within lists."""
    if len(dims) == 1:
        return list(elements)
    size = len(elements) // dims[0] if dims[0] else 0
    return [nested(elements[at * size : (at + 1) * size], dims[1:]) for at in range(dims[0])]


def flattened(values: Sequence[Any], depth: int) -> tuple[Shape, list[Any]]:
    """The shape, of so many dimensions, and the elements in row-major order. Raises ValueError where rows differ."""
    if depth == 1:
        return (len(values),), list(values)
    rows = [flattened(value, depth - 1) for value in values]
    if len({shape for shape, _ in rows}) > 1:
        raise ValueError("rows of different lengths")
    inner = rows[0][0] if rows else (0,) * (depth - 1)
    return (len(values), *inner), [element for _, elements in rows for element in elements]


def flat(data: object) -> list[object]:
    """The elements of a JSON list, nested or not. Raises InvalidRequest for a depth that no tensor has."""
    elements = data if isinstance(data, list) else [data]
    for _ in range(8):
        if not any(isinstance(one, list) for one in elements):
            return elements
        elements = [inner for one in elements for inner in (one if isinstance(one, list) else [one])]
    raise InvalidRequest("data: nested too deeply")


def unpacked(raw: bytes, datatype: str) -> list[Any]:
    """The elements of a tensor's bytes. Raises InvalidRequest."""
    if datatype == BYTES:
        return list(_strings(raw))
    form = _FORMATS[datatype]
    count, rest = divmod(len(raw), struct.calcsize(form))
    if rest:
        raise InvalidRequest(f"{len(raw)} bytes hold no whole number of {quoted(datatype)}")
    return list(struct.unpack(f"<{count}{form}", raw))


def _strings(raw: bytes) -> Iterable[bytes]:
    at = 0
    while at < len(raw):
        if len(raw) - at < _LENGTH.size or _LENGTH.unpack_from(raw, at)[0] > len(raw) - at - _LENGTH.size:
            raise InvalidRequest(f"malformed BYTES: a length at byte {at} is beyond the tensor's end")
        end = at + _LENGTH.size + _LENGTH.unpack_from(raw, at)[0]
        yield raw[at + _LENGTH.size : end]
        at = end


def packed(elements: Sequence[Any], datatype: str) -> bytes:
    if datatype != BYTES:
        return struct.pack(f"<{len(elements)}{_FORMATS[datatype]}", *elements)
    strings = [one.encode() if isinstance(one, str) else one for one in elements]
    return b"".join(part for one in strings for part in (_LENGTH.pack(len(one)), one))
