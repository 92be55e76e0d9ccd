"""The bodies of OpenAI's requests, and the TextGeneration requests that they become. Pure; knows no HTTP.

A field is used, ignored if it does not change the text, or refused by its name. No field is dropped without an error.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.functional_validators import WrapValidator
from pydantic.json_schema import WithJsonSchema

from deployments.contract.errors import quoted
from deployments.contract.types import U32, Message, SamplingDefaults, Text, TextGeneration
from serve_app.http.openai.errors import InvalidField

MAX_CHOICES = 128
WHOLE_CONTEXT = 2**32 - 1
"""More tokens than any context has: the text ends where the context ends."""


def _unsupported(value: object) -> None:
    # null, 0, "" and [] are the neutral values of every such field.
    if value:
        raise ValueError("is not supported by this server")


def _only_text(value: object) -> None:
    if value not in (None, ["text"]):
        raise ValueError("the only supported modality is text")


def _prompts(value: object, validate: Callable[[object], object]) -> object:
    """One prompt or several, as a list."""
    try:
        prompts = validate(value)
    except ValidationError:
        expected = "a string, a list of strings, a list of token ids, or a list of such lists"
        raise ValueError(f"expected {expected}") from None
    return prompts if isinstance(prompts, list) and not isinstance(prompts[0], int) else [prompts]


def _content(value: object) -> object:
    """The text of a message that is a string, a list of text parts, or null."""
    if isinstance(value, list):
        texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in value]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("the only supported content parts are text")
        return "".join(map(str, texts))
    return "" if value is None else value


AnyBody = TypeVar("AnyBody", bound="Body")
Ignored = Any
Unsupported = Annotated[Any, AfterValidator(_unsupported)]


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class StreamOptions(_Fields):
    include_usage: bool | None = None
    include_obfuscation: Ignored = None


class _NamedSchema(_Fields):
    name: str | None = None
    description: Ignored = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: Ignored = None


class ResponseFormat(_Fields):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _NamedSchema | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.type == "json_schema" and (self.json_schema is None or self.json_schema.schema_ is None):
            raise ValueError("json_schema needs a schema")
        return self

    def schema_object(self) -> dict[str, Any] | None:
        if self.type == "json_schema" and self.json_schema is not None:
            return self.json_schema.schema_
        return {"type": "object"} if self.type == "json_object" else None


class Body(SamplingDefaults, _Fields):
    """The fields of both kinds of requests. `top_k`, `min_p` and `repetition_penalty` are not OpenAI's."""

    model: Text
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """OpenAI's default is 1, not greedy decoding."""
    seed: Annotated[int, Field(ge=-(2**63), le=2**64 - 1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None

    user: Ignored = None
    metadata: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None

    presence_penalty: Unsupported = None
    frequency_penalty: Unsupported = None
    logit_bias: Unsupported = None

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed when stream is true")
        return self

    @property
    def choices(self) -> int:
        """How many texts are generated for each prompt."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def _without_prompt(self, max_tokens: int, logprobs: int | None) -> TextGeneration:
        sampling = {name: getattr(self, name) for name in SamplingDefaults.model_fields}
        sampling["temperature"] = 1.0 if self.temperature is None else self.temperature
        return TextGeneration(
            model_id=self.model,
            prompt="",
            max_tokens=max_tokens,
            seed=None if self.seed is None else self.seed % 2**64,
            logprobs=logprobs,
            json_schema=None if self.response_format is None else self.response_format.schema_object(),
            **sampling,
        )

    def _each_choice(self, request: TextGeneration) -> list[TextGeneration]:
        return [request.model_copy(update={"seed": _seed(request.seed, choice)}) for choice in range(self.choices)]


def _seed(seed: int | None, choice: int) -> int | None:
    """The first choice has the seed itself, so that its text is that of a request for one choice."""
    if seed is None or choice == 0:
        return seed
    return int.from_bytes(blake2b(f"{seed}/{choice}".encode(), digest_size=8).digest())


Item = TypeVar("Item")
_Several = Annotated[list[Item], Field(min_length=1, fail_fast=True)]
_Prompts = Text | _Several[Text] | _Several[U32] | _Several[_Several[U32]]
_TEXT = {"type": "string"}
_TEXT_PART = {"type": "object", "properties": {"type": {"const": "text"}, "text": _TEXT}, "required": ["type", "text"]}
_CONTENT = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT_PART}, {"type": "null"}]}


class CompletionBody(Body):
    prompt: Annotated[_Prompts, WrapValidator(_prompts)]
    max_tokens: U32 | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Ignored = None
    suffix: Unsupported = None

    @model_validator(mode="after")
    def _servable(self) -> Self:
        if self.best_of not in (None, self.choices):
            raise ValueError("best_of is not supported by this server")
        if self.echo and self.logprobs is not None:
            raise ValueError("echo with logprobs is not supported by this server")
        if self.echo and not all(isinstance(prompt, str) for prompt in self.prompt):
            raise ValueError("echo is supported for prompts that are text only")
        if len(self.prompt) * self.choices > MAX_CHOICES:
            raise ValueError(f"prompts times n may be at most {MAX_CHOICES}")
        return self

    def requests(self) -> list[TextGeneration]:
        """One for each choice, in the order of the choices: prompt · n + j."""
        request = self._without_prompt(16 if self.max_tokens is None else self.max_tokens, self.logprobs)
        each = ({"prompt": prompt} if isinstance(prompt, str) else {"prompt_ids": prompt} for prompt in self.prompt)
        return [one for update in each for one in self._each_choice(request.model_copy(update=update))]

    def echoes(self) -> list[str]:
        """The text before that of each choice."""
        return [str(prompt) if self.echo else "" for prompt in self.prompt for _ in range(self.choices)]


class _ChatMessage(BaseModel):
    # Clients send earlier responses back, with all their fields.
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text, BeforeValidator(_content), WithJsonSchema(_CONTENT)] = ""
    tool_calls: Unsupported = None
    function_call: Unsupported = None
    audio: Unsupported = None

    def message(self) -> Message:
        return Message(role="system" if self.role == "developer" else self.role, content=self.content)


class ChatBody(Body):
    messages: Annotated[list[_ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, le=2**32 - 1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**32 - 1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    store: Ignored = None
    parallel_tool_calls: Ignored = None
    tool_choice: Ignored = None  # Without tools it has no effect.
    modalities: Annotated[Any, AfterValidator(_only_text)] = None

    tools: Unsupported = None
    functions: Unsupported = None
    function_call: Ignored = None
    audio: Unsupported = None
    moderation: Unsupported = None
    prediction: Unsupported = None
    reasoning_effort: Unsupported = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None

    @model_validator(mode="after")
    def _servable(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is only allowed when logprobs is true")
        return self

    def requests(self) -> list[TextGeneration]:
        """One for each choice."""
        limit = self.max_completion_tokens or self.max_tokens or WHOLE_CONTEXT
        request = self._without_prompt(limit, (self.top_logprobs or 0) if self.logprobs else None)
        messages = [message.message() for message in self.messages]
        return self._each_choice(request.model_copy(update={"messages": messages}))


def body_of(kind: type[AnyBody], value: object) -> AnyBody:
    """Raises InvalidField."""
    if not isinstance(value, dict):
        raise InvalidField("expected a JSON object")
    try:
        return kind.model_validate(value)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part in _NAMES) or None
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        raise InvalidField(f"Unrecognized request argument supplied: {quoted(name)}", name[:64])
    if first["type"] == "missing":
        raise InvalidField(f"Missing required parameter: '{where}'", where)
    reason = first["msg"].removeprefix("Value error, ")
    raise InvalidField(f"{where}: {reason}" if where else reason, where)


def _names(kinds: tuple[type[BaseModel], ...]) -> frozenset[str]:
    return frozenset(info.alias or name for kind in kinds for name, info in kind.model_fields.items())


_NAMES = _names((CompletionBody, ChatBody, _ChatMessage, ResponseFormat, _NamedSchema, StreamOptions))
