"""The types of single values in the contract."""

from typing import Annotated, get_args

from pydantic import BeforeValidator, Field
from pydantic.fields import FieldInfo

U32_MAX = 2**32 - 1


def _decimal(key: object) -> object:
    return int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 10 else key


Text = Annotated[str, Field(min_length=0)]
"""Unicode: a length makes pydantic refuse lone surrogates, in its own code."""
U32 = Annotated[int, Field(ge=0, le=U32_MAX)]
U64 = Annotated[int, Field(ge=0, le=2**64 - 1)]
TokenId = Annotated[U32, BeforeValidator(_decimal)]
"""As a key of a JSON object, which is always a string."""
Box = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max in pixels of the upright image as it was sent."""


def upper_bound(info: FieldInfo) -> int | None:
    """Of the whole numbers in a field, at whatever depth they stand; None where they have none."""
    inner = [FieldInfo.from_annotation(one) for one in get_args(info.annotation) if one is not type(None)]
    bounds = [getattr(one, "le", None) for one in info.metadata] + [upper_bound(one) for one in inner]
    return max((bound for bound in bounds if bound is not None), default=None)
