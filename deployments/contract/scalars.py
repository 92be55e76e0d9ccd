"""The types of single values in the contract."""

from typing import Annotated

from pydantic import BeforeValidator, Field


def _decimal(key: object) -> object:
    return int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 10 else key


Text = Annotated[str, Field(min_length=0)]
"""Unicode: a length makes pydantic refuse lone surrogates, in its own code."""
U32 = Annotated[int, Field(ge=0, le=2**32 - 1)]
U64 = Annotated[int, Field(ge=0, le=2**64 - 1)]
TokenId = Annotated[U32, BeforeValidator(_decimal)]
"""As a key of a JSON object, which is always a string."""
Box = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max in pixels of the upright image as it was sent."""
