"""The body of an inference request, and the requests of the contract that it becomes. Pure; knows no routes.

The body is JSON, followed by the bytes of those inputs that have `binary_data_size`. With a JSON part of no bytes the
whole body is the one input of the model.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.contract import wire
from deployments.contract.errors import InvalidRequest, quoted
from deployments.contract.types import InferRequest, InferResponse
from serve_app.access.caller import DEADLINE_HEADER, PRIORITY_HEADER
from serve_app.http.batch import MAX_ITEMS
from serve_app.http.oip.tensors import BYTES, Tensor, flat, tensors_of, unpacked

Parameters = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Signature:
    """What models of a family take and give."""

    request: type[InferRequest]
    result: type[InferResponse]


class Part(BaseModel):
    """As strict as the contract in the types of values; unknown keys are ignored, as the protocol asks."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Input(Part):
    name: str
    shape: list[Annotated[int, Field(ge=0)]]
    datatype: str
    parameters: Parameters = {}
    data: Any = None


class RequestedOutput(Part):
    name: str
    parameters: Parameters = {}


class Body(Part):
    id: str = ""
    inputs: list[Input]
    outputs: list[RequestedOutput] | None = None
    parameters: Parameters = {}


@dataclass(frozen=True, slots=True)
class Asked:
    """What one body asks for. `outputs`: by name, whether it is wanted in binary; None for all of them."""

    requests: Sequence[InferRequest]
    id: str = ""
    outputs: Mapping[str, bool] | None = None
    binary: bool = False
    """Whether outputs that are not named one by one are wanted in binary."""
    scheduling: Mapping[str, str] = field(default_factory=dict)
    """Priority and deadline of the parameters, under the names of their headers."""


_UNSUPPORTED = {
    "shared_memory_region": "shared memory is not offered",
    "classification": "ask for the outputs class_labels and probabilities, and for the parameter top_k",
}
_PRIORITIES = {1: "high", 2: "normal"}


def asked_of(body: bytes, header_length: int | None, model_id: str, signature: Signature) -> Asked:
    """`header_length`: how many bytes of the body are JSON; None for all of them. Raises InvalidRequest."""
    if header_length == 0:
        return _asked_raw(body, model_id, signature)
    size = len(body) if header_length is None else header_length
    if size > len(body):
        raise InvalidRequest(f"the JSON part has {size} bytes, the body only {len(body)}")
    return asked_from(_parsed(wire.parse_json(body[:size])), body[size:], model_id, signature)


def asked_from(parsed: Body, raw: bytes, model_id: str, signature: Signature) -> Asked:
    """`raw`: the bytes of the inputs that have `binary_data_size`, in their order. Raises InvalidRequest."""
    _refuse(parsed.parameters)
    columns = _columns(parsed.inputs, raw, tensors_of(signature.request))
    binary = parsed.parameters.get("binary_data_output") is True
    return Asked(
        _requests(columns, parsed.parameters, model_id, signature.request),
        parsed.id,
        None if parsed.outputs is None else _outputs(parsed.outputs, binary, tensors_of(signature.result)),
        binary,
        _scheduling(parsed.parameters),
    )


def _asked_raw(body: bytes, model_id: str, signature: Signature) -> Asked:
    """A body that is one input alone: `curl --data-binary @cat.jpg`."""
    required = [tensor for tensor in tensors_of(signature.request).values() if tensor.required]
    if len(required) != 1 or required[0].datatype != BYTES or required[0].dims:
        raise InvalidRequest(f"this model takes {' and '.join(one.name for one in required)}; send them as inputs")
    columns = {required[0].name: [_element(body, required[0])]}
    return Asked(_requests(columns, {}, model_id, signature.request), binary=True)


def _parsed(value: object) -> Body:
    if not isinstance(value, dict):
        raise InvalidRequest("expected a JSON object")
    try:
        return Body.model_validate(value)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_context=False, include_input=False)[0]
        raise InvalidRequest(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _columns(inputs: Sequence[Input], raw: bytes, tensors: Mapping[str, Tensor]) -> dict[str, list[object]]:
    """By field, its value in each request."""
    columns: dict[str, list[object]] = {}
    at = 0
    for given in inputs:
        tensor = tensors.get(given.name)
        if tensor is None:
            needed = ", ".join(one.name for one in tensors.values() if one.required)
            raise InvalidRequest(f"no input {quoted(given.name)}; this model takes {needed}")
        if given.name in columns:
            raise InvalidRequest(f"{given.name}: given twice")
        if not tensor.takes(given.datatype):
            raise InvalidRequest(f"{given.name}: datatype {quoted(given.datatype)} instead of {tensor.datatype}")
        _refuse(given.parameters)
        size = given.parameters.get("binary_data_size")
        if size is None:
            elements = [_element(one, tensor, given) for one in flat(given.data if given.data is not None else [])]
        elif type(size) is not int or not 0 <= size <= len(raw) - at or given.data is not None:
            raise InvalidRequest(f"{given.name}: binary_data_size is no number of bytes that the body has left")
        else:
            elements = [_element(one, tensor) for one in unpacked(raw[at : at + size], given.datatype)]
            at += size
        columns[given.name] = tensor.values(given.shape, elements)
    if at < len(raw):
        raise InvalidRequest(f"{len(raw) - at} bytes of the body belong to no input")
    return columns


def _element(value: object, tensor: Tensor, given: Input | None = None) -> object:
    """Text of bytes, where the field has text. Bytes are base64 in JSON: the contract's own decoding reads them."""
    if tensor.kind is not str:
        return value
    try:
        if given is not None and given.parameters.get("content_type") == "base64" and isinstance(value, str):
            value = base64.b64decode(value, validate=True)
        return value.decode("utf-8") if isinstance(value, bytes) else value
    except (UnicodeDecodeError, binascii.Error):
        raise InvalidRequest(f"{tensor.name}: an element is no UTF-8") from None


def _requests(
    columns: Mapping[str, Sequence[object]], parameters: Parameters, model_id: str, kind: type[InferRequest]
) -> list[InferRequest]:
    counts = {len(column) for column in columns.values()}
    if len(counts) > 1:
        raise InvalidRequest("the inputs are for different numbers of requests: their first dimensions differ")
    (count,) = counts or {1}
    if not 0 < count <= MAX_ITEMS:
        raise InvalidRequest(f"inputs are for 1 to {MAX_ITEMS} requests, these for {count}")
    if twice := columns.keys() & parameters.keys():
        raise InvalidRequest(f"{min(twice)}: both an input and a parameter")
    rows = ({name: column[row] for name, column in columns.items()} for row in range(count))
    fields = [{**parameters, **row, "model_id": model_id} for row in rows]
    return [wire.from_object({kind.__name__: one}, InferRequest) for one in fields]


def _outputs(wanted: Sequence[RequestedOutput], binary: bool, tensors: Mapping[str, Tensor]) -> dict[str, bool]:
    for output in wanted:
        if output.name not in tensors:
            raise InvalidRequest(f"no output {quoted(output.name)}; there are {', '.join(tensors)}")
        _refuse(output.parameters)
    return {output.name: output.parameters.get("binary_data", binary) is True for output in wanted}


def _refuse(parameters: Parameters) -> None:
    for name, reason in _UNSUPPORTED.items():
        if parameters.get(name):
            raise InvalidRequest(f"{name}: {reason}")


def _scheduling(parameters: Parameters) -> dict[str, str]:
    """`timeout` is in microseconds, `priority` 1 the highest; 0 is the default of either."""
    scheduling = {}
    for name in ("timeout", "priority"):
        value = parameters.get(name) or 0
        if type(value) is not int or value < 0:
            raise InvalidRequest(f"{name}: expected a whole number that is not negative")
        if value and name == "timeout":
            scheduling[DEADLINE_HEADER] = str(-(-value // 1000))
        elif value:
            scheduling[PRIORITY_HEADER] = _PRIORITIES.get(value, "low")
    return scheduling
