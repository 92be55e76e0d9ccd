"""Requests and responses as protocol buffers, and back. Follows the types of the contract: no variant is named here."""

import re
from collections.abc import Iterator
from typing import Any, TypeVar

import pydantic_core
from google.protobuf.message import Message
from pydantic import BaseModel

from deployments.contract import wire
from deployments.contract.errors import InvalidRequest
from deployments.contract.types import Variant
from serve_app.grpc.forms import REPEATED, Form, form_of

Union = TypeVar("Union", bound=Variant)
Buffer = TypeVar("Buffer", bound=Message)

OTHER = "other"
"""The field for variants that the file does not have, as a family of the operator's own: JSON."""


def name_of(kind: type[Variant]) -> str:
    """`text_generation` of TextGeneration."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def from_message(message: Message, union: type[Union]) -> Union:
    """The variant that the message holds. Raises InvalidRequest."""
    name = message.WhichOneof("variant")
    if name is None:
        raise InvalidRequest(f"expected exactly one variant, one of {', '.join(map(name_of, union.variants.values()))}")
    held = getattr(message, name)
    if name == OTHER:
        return wire.decode(held, wire.JSON, union)
    kind = next(kind for kind in union.variants.values() if name_of(kind) == name)
    return wire.from_object({kind.__name__: dict(_fields(held, kind))}, union)


def to_message(variant: Variant, message: Buffer) -> Buffer:
    """Fills the message, of the variant's union, and returns it."""
    name = name_of(type(variant))
    if name not in message.DESCRIPTOR.fields_by_name:
        setattr(message, OTHER, wire.encode(variant, wire.JSON))
        return message
    held = getattr(message, name)
    held.SetInParent()
    fill(held, variant)
    return message


def _fields(message: Any, kind: type[BaseModel]) -> Iterator[tuple[str, object]]:
    """The fields that are set, and those that are always there."""
    for field in message.DESCRIPTOR.fields:
        info = kind.model_fields[field.name]
        value, form = getattr(message, field.name), form_of(info)
        if form.label == "map":
            if value:
                yield field.name, dict(value)
        elif form.label == REPEATED:
            if value or info.is_required():
                yield field.name, [_value(one, form) for one in value]
        elif info.is_required() or message.HasField(field.name):
            yield field.name, _value(value, form)


def _value(value: Any, form: Form) -> object:
    if form.model:
        return dict(_fields(value, form.model))
    if form.wrapped:
        return list(value.values)
    return wire.parse_json(value.encode()) if form.is_json else value


def fill(message: Any, model: BaseModel) -> None:
    """Sets the message's fields to the model's. What is None stays absent."""
    for name, info in type(model).model_fields.items():
        value, form = getattr(model, name), form_of(info)
        if value is None or name not in message.DESCRIPTOR.fields_by_name:
            continue
        held = getattr(message, name)
        if form.label == "map":
            held.update(value)
        elif form.label != REPEATED:
            _set(message, name, value, form)
        elif form.wrapped:
            for one in value:
                held.add().values.extend(one)
        elif form.model:
            for one in value:
                fill(held.add(), one)
        else:
            held.extend([value] if isinstance(value, str) else value)


def _set(message: Any, name: str, value: Any, form: Form) -> None:
    if form.model:
        held = getattr(message, name)
        held.SetInParent()
        fill(held, value)
    else:
        setattr(message, name, pydantic_core.to_json(value).decode() if form.is_json else value)
