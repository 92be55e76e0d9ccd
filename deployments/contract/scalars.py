"""The types of single values in the contract."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field


def _unicode(text: str) -> str:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("lone surrogates are not Unicode text")
    return text


def _decimal(key: object) -> object:
    return int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 10 else key


Text = Annotated[str, AfterValidator(_unicode)]
U32 = Annotated[int, Field(ge=0, le=2**32 - 1)]
U64 = Annotated[int, Field(ge=0, le=2**64 - 1)]
TokenId = Annotated[U32, BeforeValidator(_decimal)]
"""As a key of a JSON object, which is always a string."""
