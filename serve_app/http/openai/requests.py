"""The bodies of OpenAI's requests, and the requests that they become. Pure; knows no HTTP.

A field is used, ignored if it does not change the text, or refused by its name. No field is dropped without an error.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from hashlib import blake2b
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.functional_validators import WrapValidator

from deployments.contract.errors import quoted
from deployments.contract.scalars import U32, Text
from deployments.contract.text_generation import SamplingDefaults, TokenOptions
from deployments.contract.types import InferRequest, TextGeneration
from serve_app.http.openai.errors import InvalidField
from serve_app.http.openai.fields import UNSUPPORTED, used_fields

MAX_CHOICES = 128
SHORT_TEXT = 16
"""OpenAI's default length of a completion."""


def _prompts(value: object, validate: Callable[[object], object]) -> object:
    """One prompt or several, as a list."""
    try:
        prompts = validate(value)
    except ValidationError:
        expected = "a string, a list of strings, a list of token ids, or a list of such lists"
        raise ValueError(f"expected {expected}") from None
    return prompts if isinstance(prompts, list) and not isinstance(prompts[0], int) else [prompts]


AnyBody = TypeVar("AnyBody", bound="RequestBody")
Ignored = Any


class Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class StreamOptions(Fields):
    include_usage: bool | None = None
    include_obfuscation: Ignored = None
    continuous_usage_stats: Ignored = None
    """vLLM's. The usage comes once, at the end."""


class NamedSchema(Fields):
    name: str | None = None
    description: Ignored = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: Ignored = None


class ResponseFormat(Fields):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    """llama.cpp's, beside either type of JSON."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.type == "json_schema" and self.schema_object() is None:
            raise ValueError("json_schema needs a schema")
        return self

    def schema_object(self) -> dict[str, Any] | None:
        if self.type == "text":
            return None
        named = self.json_schema.schema_ if self.json_schema else None
        schema = self.schema_ if named is None else named
        return {"type": "object"} if schema is None and self.type == "json_object" else schema


class RequestBody(Fields):
    """`unsupported`: the fields that are refused, with the values that ask for nothing."""

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]]

    @cached_property
    def requests(self) -> Sequence[InferRequest]:
        """What is asked of the model, one for each choice. Raises ValidationError."""
        raise NotImplementedError


class Body(TokenOptions, SamplingDefaults, RequestBody):
    """The fields of completions and chats."""

    unsupported = UNSUPPORTED

    model: Text
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """By default the model's own, else OpenAI's 1: not greedy decoding."""
    seed: Annotated[int, Field(ge=-(2**63), le=2**64 - 1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None

    @property
    def choices(self) -> int:
        """How many texts are generated for each prompt."""
        return self.n or 1

    @property
    def left_open(self) -> dict[str, object]:
        """Fields that the body does not have, with OpenAI's defaults."""
        return {"temperature": 1.0} if self.temperature is None else {}

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def _json_schema(self) -> dict[str, Any] | None:
        return None if self.response_format is None else self.response_format.schema_object()

    def _request(self, **fields: object) -> TextGeneration:
        """With these fields and those that say how tokens are chosen. Raises ValidationError."""
        sampling = {name: getattr(self, name) for name in (*SamplingDefaults.model_fields, *TokenOptions.model_fields)}
        chosen = {
            "model_id": self.model,
            "prompt": "",
            "seed": None if self.seed is None else self.seed % 2**64,
            "json_schema": self._json_schema,
        }
        return TextGeneration.model_validate(sampling | chosen | fields)

    def _each_choice(self, request: TextGeneration) -> list[TextGeneration]:
        return [request.model_copy(update={"seed": _seed(request.seed, choice)}) for choice in range(self.choices)]


def _seed(seed: int | None, choice: int) -> int | None:
    """The first choice has the seed itself, so that its text is that of a request for one choice."""
    if seed is None or choice == 0:
        return seed
    return int.from_bytes(blake2b(f"{seed}/{choice}".encode(), digest_size=8).digest())


Item = TypeVar("Item")
_Several = Annotated[list[Item], Field(min_length=1, fail_fast=True)]
Prompts = Annotated[Text | _Several[Text] | _Several[U32] | _Several[_Several[U32]], WrapValidator(_prompts)]
"""A list, whichever was sent."""


class CompletionBody(Body):
    unsupported = UNSUPPORTED | {"add_special_tokens": (True,)}

    prompt: Prompts
    max_tokens: U32 | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: int | None = None
    suffix: Text | None = None

    @model_validator(mode="after")
    def _servable(self) -> Self:
        if self.best_of not in (None, self.choices):
            raise ValueError("best_of is not supported by this server")
        if self.echo and not self._prompt_logprobs and not all(isinstance(prompt, str) for prompt in self.prompt):
            raise ValueError("echo of token ids is supported with logprobs only")
        if self.suffix and not all(isinstance(prompt, str) for prompt in self.prompt):
            raise ValueError("suffix is supported for prompts that are text only")
        if len(self.prompt) * self.choices > MAX_CHOICES:
            raise ValueError(f"prompts times n may be at most {MAX_CHOICES}")
        return self

    @cached_property
    def requests(self) -> list[TextGeneration]:
        """One for each choice, in the order of the choices: prompt · n + j."""
        limit = SHORT_TEXT if self.max_tokens is None else self.max_tokens
        prompt_logprobs = self._prompt_logprobs or None
        request = self._request(max_tokens=limit, logprobs=self.logprobs, prompt_logprobs=prompt_logprobs)
        return [
            one for prompt in self.prompt for one in self._each_choice(request.model_copy(update=self._asks(prompt)))
        ]

    @property
    def left_open(self) -> dict[str, object]:
        return super().left_open | ({"max_tokens": SHORT_TEXT} if self.max_tokens is None else {})

    @property
    def _prompt_logprobs(self) -> bool:
        return bool(self.echo) and self.logprobs is not None

    def _asks(self, prompt: object) -> dict[str, object]:
        if not isinstance(prompt, str):
            return {"prompt_ids": prompt}
        # Clients that write a model's template or its fill-in-the-middle tokens themselves expect these to be tokens.
        return {"prompt": prompt, "suffix": self.suffix or None, "control_tokens": True}

    def echoes(self) -> list[str]:
        """The text before that of each choice."""
        echoed = [prompt if self.echo and isinstance(prompt, str) else "" for prompt in self.prompt]
        return [echo for echo in echoed for _ in range(self.choices)]


def body_of(kind: type[AnyBody], value: object) -> AnyBody:
    """Raises InvalidField."""
    if not isinstance(value, dict):
        raise InvalidField("expected a JSON object")
    try:
        body = kind.model_validate(used_fields(value, kind.unsupported, kind.model_fields))
        _ = body.requests  # Raises as well.
        return body
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_context=False, include_input=False)[0]
    # Of the location's parts some are names of types, and keys that the client made up.
    known = _names(kind)
    where = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part in known) or None
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        raise InvalidField(f"Unrecognized request argument supplied: {quoted(name)}", name[:64])
    if first["type"] == "missing":
        raise InvalidField(f"Missing required parameter: '{where}'", where)
    reason = first["msg"].removeprefix("Value error, ")
    raise InvalidField(f"{where}: {reason}" if where else reason, where)


@cache
def _names(kind: type[BaseModel]) -> frozenset[str]:
    """Of all fields, at any depth."""
    schema = kind.model_json_schema()
    objects = [schema, *schema.get("$defs", {}).values()]
    return frozenset(name for one in objects for name in one.get("properties", ()))
