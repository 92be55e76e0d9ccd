"""The unions as bytes and back: JSON, bincode 1.x and MessagePack. Whatever the bytes, only InvalidRequest is raised.

JSON is serde's external tagging, and as strict as serde in the union's own fields, except that bytes may also come
as base64. bincode carries the union's own fields only (those without a default), in order.
"""

import binascii
import json
import re
import typing
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from types import UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, cast, get_args, get_origin
from urllib.parse import unquote

import jiter
import msgpack
import pybase64
from pydantic import BaseModel, ValidationError

from deployments.contract import bincode
from deployments.contract.errors import InvalidRequest, UnsupportedMediaType, quoted
from deployments.contract.types import Variant

Union = TypeVar("Union", bound=Variant)

JSON = "application/json"
BINCODE = "application/x-bincode"
MSGPACK = "application/msgpack"

_FROM_URL_ALPHABET = bytes.maketrans(b"-_", b"+/")


def decode(body: bytes, media_type: str, union: type[Union]) -> Union:
    """The variant of `union` that `body` holds. Raises InvalidRequest, UnsupportedMediaType."""
    return cast(Union, _format(media_type).decode(body, union))


def encode(variant: Variant, media_type: str) -> bytes:
    return _format(media_type).encode(variant)


def from_object(value: object, union: type[Union]) -> Union:
    """The variant in a decoded `{"Variant": {field: value}}`. Raises InvalidRequest."""
    if not isinstance(value, dict) or len(value) != 1 or _duplicates(value):
        names = ", ".join(union.variants)
        raise InvalidRequest(f"expected an object with exactly one variant, one of {names}")
    ((name, fields),) = value.items()
    kind = union.variants.get(name)
    if kind is None:
        raise InvalidRequest(f"unknown variant {quoted(str(name))}, expected one of {', '.join(union.variants)}")
    if not isinstance(fields, dict):
        raise InvalidRequest(f"{name}: expected an object of fields")
    for twice in _duplicates(fields) & kind.model_fields.keys():
        raise InvalidRequest(f"{name}.{twice}: duplicate field")
    for known in kind.model_fields.keys() & fields.keys() if isinstance(fields, _Object) else ():
        if (nested := _duplicate_within(fields[known])) is not None:
            raise InvalidRequest(f"{name}.{known}: duplicate field {quoted(nested)}")
    return cast(Union, _build(kind, _adapt_fields(kind, fields, name)))


def to_object(variant: Variant) -> dict[str, object]:
    """`{"Variant": {field: value}}`, absent extras left out."""
    return {type(variant).__name__: variant.model_dump(exclude_none=True)}


def _build(kind: type[Variant], fields: Mapping[str, object]) -> Variant:
    try:
        return kind.model_validate(fields)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in (kind.__name__, *first["loc"]))
        raise InvalidRequest(f"{where}: {first['msg']}") from None


# Types that JSON and MessagePack do not have ---------------------------------------------------------------------


@cache
def _fields_to_adapt(kind: type[BaseModel]) -> dict[str, object]:
    """The types of the fields that are bytes or tuples, or hold them."""
    return {name: info.annotation for name, info in kind.model_fields.items() if _is_adapted(info.annotation)}


def _is_adapted(annotation: object) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return bool(_fields_to_adapt(annotation))
    return annotation is bytes or get_origin(annotation) is tuple or any(map(_is_adapted, get_args(annotation)))


def _adapted(value: Any, annotation: Any, where: str) -> Any:
    """Bytes and tuples where the type has them. Any other value stays as it is: pydantic refuses it, if need be."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is bytes:
        return _bytes_of(value, where)
    if origin in (Annotated, typing.Union, UnionType) and value is not None:
        return _adapted(value, next(filter(_is_adapted, inner), None), where)
    if origin is list and isinstance(value, list):
        return [_adapted(item, inner[0], f"{where}.{number}") for number, item in enumerate(value)]
    if origin is tuple and isinstance(value, list):
        several = zip(value, inner if len(inner) == len(value) else (None,) * len(value), strict=True)
        return tuple(_adapted(item, one, f"{where}.{number}") for number, (item, one) in enumerate(several))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and isinstance(value, dict):
        return _adapt_fields(annotation, value, where)
    return value


def _adapt_fields(kind: type[BaseModel], fields: dict[str, Any], where: str) -> dict[str, Any]:
    for name, annotation in _fields_to_adapt(kind).items():
        if name in fields:
            fields[name] = _adapted(fields[name], annotation, f"{where}.{name}")
    return fields


def _bytes_of(value: object, where: str) -> object:
    """Bytes from what JSON or MessagePack can carry: base64 text, a list of integers, or bytes."""
    try:
        if isinstance(value, str):
            return _from_base64(value)
        if isinstance(value, list):
            # bytes() accepts booleans as 0 and 1.
            if not set(map(type, value)) <= {int}:
                raise InvalidRequest(f"{where}: every element must be an integer from 0 to 255")
            return bytes(value)
    except binascii.Error:
        raise InvalidRequest(f"{where}: the string is not base64") from None
    except ValueError:
        raise InvalidRequest(f"{where}: not base64, or an element is not in 0 to 255") from None
    return value


def _from_base64(text: str) -> bytes:
    """As programs and people write it: with line breaks, in the alphabet for URLs, unpadded, in a `data:` URL.

    Raises ValueError.
    """
    if text[:5].lower() == "data:":
        header, _, text = text.partition(",")
        if not header.lower().endswith(";base64"):
            raise binascii.Error("the URL holds no base64")
        text = unquote(text) if "%" in text else text
    with suppress(binascii.Error):
        return pybase64.b64decode(text, validate=True)
    data = text.encode("ascii").translate(_FROM_URL_ALPHABET, b" \t\n\v\f\r")
    return pybase64.b64decode(data if b"=" in data else data + b"=" * (-len(data) % 4), validate=True)


# JSON -----------------------------------------------------------------------------------------------------------


class _Object(dict[str, object]):
    """A JSON object with the set of its duplicate keys. Raises InvalidRequest for a key that is not Unicode text."""

    duplicates: frozenset[str] = frozenset()

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        for name in self:
            if not name.isascii() and _SURROGATE.search(name):
                raise InvalidRequest(f"malformed JSON: the key {quoted(name)} has a lone surrogate")
        if len(self) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            self.duplicates = frozenset(name for name, count in counts.items() if count > 1)


def _duplicates(value: dict[str, object]) -> frozenset[str]:
    return value.duplicates if isinstance(value, _Object) else frozenset()


def _duplicate_within(value: object) -> str | None:
    """A duplicate key of an object at any depth of the value."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, _Object) and value.duplicates:
            return min(value.duplicates)
        inner = value.values() if isinstance(value, _Object) else value if isinstance(value, list) else ()
        pending += [item for item in inner if isinstance(item, list | _Object)]
    return None


def _integer(digits: str) -> int | float:
    """serde reads `-0` as a float, for which no integer field has room."""
    return -0.0 if digits == "-0" else int(digits)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_SURROGATE = re.compile("[\ud800-\udfff]")
_NEGATIVE_ZERO = re.compile(rb"-0(?![\d.eE])")
_json = json.JSONDecoder(object_pairs_hook=_Object, parse_int=_integer, parse_constant=_no_constant)


def parse_json(body: bytes) -> object:
    """Any JSON value, strictly: no BOM, NaN, trailing bytes or invalid UTF-8. Raises InvalidRequest."""
    if b"-0" in body and _NEGATIVE_ZERO.search(body):  # jiter makes it 0.
        return _explained(body)
    try:
        # Eight times as fast on an image. The standard library reads what jiter refuses, or explains the error.
        return jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError:
        return _explained(body)


def _explained(body: bytes) -> object:
    try:
        return _json.decode(body.decode("utf-8"))
    except UnicodeDecodeError as bad:
        raise InvalidRequest(f"the body is not UTF-8 (byte {bad.start})") from None
    except json.JSONDecodeError as bad:
        raise InvalidRequest(f"malformed JSON: {bad.msg} at character {bad.pos}") from None
    except (ValueError, RecursionError) as bad:
        reason = "nested too deeply" if isinstance(bad, RecursionError) else "a number is too long or not finite"
        raise InvalidRequest(f"malformed JSON: {reason}") from None


def _decode_json(body: bytes, union: type[Variant]) -> Variant:
    return from_object(parse_json(body), union)


_json_encoder = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=pybase64.b64encode_as_string
)


def _encode_json(variant: Variant) -> bytes:
    return _json_encoder.encode(to_object(variant)).encode()


# MessagePack ----------------------------------------------------------------------------------------------------


def _decode_msgpack(body: bytes, union: type[Variant]) -> Variant:
    try:
        value = msgpack.unpackb(body, object_pairs_hook=_Object, strict_map_key=True)
    except Exception as bad:  # the library raises its own, ValueError, TypeError and UnicodeDecodeError
        raise InvalidRequest(f"malformed MessagePack ({type(bad).__name__})") from None
    return from_object(value, union)


def _encode_msgpack(variant: Variant) -> bytes:
    return cast(bytes, msgpack.packb(to_object(variant)))


# bincode --------------------------------------------------------------------------------------------------------


def _decode_bincode(body: bytes, union: type[Variant]) -> Variant:
    reader = bincode.Reader(body)
    index = int.from_bytes(reader.take(4), "little")
    kind = next((kind for kind in union.variants.values() if kind.index == index), None)
    if kind is None:
        raise InvalidRequest(f"unknown variant index {index}")
    fields = bincode.read_fields(kind, reader)
    reader.end()
    return _build(kind, fields)


def _encode_bincode(variant: Variant) -> bytes:
    return bincode.u32(variant.index) + bincode.write_fields(variant)


# ----------------------------------------------------------------------------------------------------------------


class _Format(NamedTuple):
    decode: Callable[[bytes, type[Variant]], Variant]
    encode: Callable[[Variant], bytes]


_FORMATS = {
    JSON: _Format(_decode_json, _encode_json),
    BINCODE: _Format(_decode_bincode, _encode_bincode),
    MSGPACK: _Format(_decode_msgpack, _encode_msgpack),
}
MEDIA_TYPES = tuple(_FORMATS)


def _format(media_type: str) -> _Format:
    if media_type not in _FORMATS:
        raise UnsupportedMediaType(f"content type {quoted(media_type)} is not supported; send {', '.join(MEDIA_TYPES)}")
    return _FORMATS[media_type]
