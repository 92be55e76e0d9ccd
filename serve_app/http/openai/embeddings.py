"""The body of OpenAI's /v1/embeddings, the TextEmbedding that it becomes, and the response. Pure; knows no HTTP."""

import struct
from functools import cached_property
from typing import Annotated, Literal, Self

import pybase64
from pydantic import Field, model_validator

from deployments.contract.scalars import U32, Text
from deployments.contract.types import MAX_TEXTS, TextEmbedding, TextEmbeddingResult
from serve_app.http.openai.requests import Prompts, RequestBody
from serve_app.http.openai.responses import Object

_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "add_special_tokens": (True,),
    "embed_dtype": ("float32",),
    "endianness": ("native", "little"),
    "messages": (),
    "options": ({},),
    "prompt_name": (),
    "truncate_prompt_tokens": (-1,),
    "use_activation": (True,),
}
"""vLLM's, Text Embeddings Inference's and Ollama's, with the values that ask for nothing."""


class EmbeddingBody(RequestBody):
    """`input_type`, `normalize` and `truncate` are extras: TextEmbedding's own."""

    unsupported = _UNSUPPORTED

    model: Text
    input: Prompts
    dimensions: Annotated[U32, Field(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    input_type: Text | None = None
    normalize: bool | None = None
    truncate: bool | None = None

    @model_validator(mode="after")
    def _not_too_many(self) -> Self:
        if len(self.input) > MAX_TEXTS:
            raise ValueError(f"input may have at most {MAX_TEXTS} texts, not {len(self.input)}")
        return self

    @cached_property
    def requests(self) -> list[TextEmbedding]:
        """One, of all texts. Raises ValidationError."""
        is_text = all(isinstance(one, str) for one in self.input)
        asked = {"texts": self.input} if is_text else {"texts": [], "token_ids": self.input}
        options = {name: getattr(self, name) for name in ("dimensions", "input_type", "normalize", "truncate")}
        return [TextEmbedding.model_validate({"model_id": self.model} | asked | options)]

    def response(self, result: TextEmbeddingResult) -> Object:
        encode = _in_base64 if self.encoding_format == "base64" else list
        listed = [
            {"object": "embedding", "index": index, "embedding": encode(vector)}
            for index, vector in enumerate(result.embeddings)
        ]
        usage = {"prompt_tokens": result.tokens, "total_tokens": result.tokens}
        return {"object": "list", "data": listed, "model": self.model, "usage": usage}


def _in_base64(vector: list[float]) -> str:
    """Float32, little-endian."""
    return pybase64.b64encode_as_string(struct.pack(f"<{len(vector)}f", *vector))
