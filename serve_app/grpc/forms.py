"""Which protocol buffer field stands for which type of the contract. The generator and the messages read it.

Text, bytes, booleans and whole numbers are themselves; numbers are `float` in the union's own fields and `double`
beside them. A list is `repeated`, a list within a list a message with `values`. What has no such form (objects of any
keys) is JSON in a string.
"""

from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from deployments.contract.scalars import U32_MAX, upper_bound

REPEATED, OPTIONAL = "repeated", "optional"
_SCALARS = {str: "string", bytes: "bytes", bool: "bool"}


@dataclass(frozen=True, slots=True)
class Form:
    """`kind`: the name of its type in the file. `model`: what a message of it holds."""

    kind: str
    label: str = ""
    model: type[BaseModel] | None = None
    wrapped: bool = False
    """Whether a value is a list, in a message's `values`."""
    is_json: bool = False


def form_of(info: FieldInfo, is_own: bool = False) -> Form:
    """`is_own`: of a field of the union itself, where numbers are f32."""
    number = "float" if is_own else "double"
    bound = upper_bound(info)
    integer = "int64" if bound is None else "uint32" if bound <= U32_MAX else "uint64"
    form = _form(_bare(info.annotation), {**_SCALARS, float: number, int: integer})
    return form if form.label or info.is_required() else Form(form.kind, OPTIONAL, form.model, is_json=form.is_json)


def _form(annotation: Any, scalars: dict[type, str]) -> Form:
    origin, inner = get_origin(annotation), [_bare(one) for one in get_args(annotation) if one is not type(None)]
    if annotation in scalars:
        return Form(scalars[annotation])
    if origin is Literal:
        return Form("string")
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return Form(annotation.__name__, model=annotation)
    if origin in (Union, UnionType) and len(inner) == 2 and get_origin(inner[1]) is list:  # one, or a list of them
        return _form(inner[1], scalars)
    if origin is dict and inner[0] in scalars and inner[1] in scalars:
        return Form(f"map<{scalars[inner[0]]}, {scalars[inner[1]]}>", "map")
    if origin in (list, tuple):
        item = _form(inner[0], scalars)
        if item.label == REPEATED:
            return Form(f"{item.kind.capitalize()}s", REPEATED, wrapped=True)
        if not item.is_json:
            return Form(item.kind, REPEATED, item.model)
    return Form("string", is_json=True)


def _bare(annotation: Any) -> Any:
    """Without annotations and `| None`."""
    origin, inner = get_origin(annotation), [one for one in get_args(annotation) if one is not type(None)]
    if origin is Annotated or (origin in (Union, UnionType) and len(inner) == 1):
        return _bare(inner[0])
    return annotation
