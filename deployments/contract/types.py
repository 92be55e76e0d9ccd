"""The contract: what a caller sends and what it gets. Imports neither torch nor Ray.

Each subclass of `InferRequest` or `InferResponse` is a variant of that union, under its class name and at the
bincode `index` it declares; an index is never reused. Fields without a default are the union's own and travel in
every format. Fields with one are optional extras: `None` means absent, and bincode does not carry them.
"""

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.contract.chat import ChatOptions, Markup, Message
from deployments.contract.errors import ERRORS, Internal, ServingError
from deployments.contract.scalars import U32, U64, Box, Text
from deployments.contract.speech import SpeechSegment
from deployments.contract.text_generation import PromptToken, SamplingDefaults, TokenLogprob, TokenOptions, Usage

MAX_TEXTS = 2048
"""Of one TextEmbedding, as OpenAI has it."""


class Variant(BaseModel):
    """A variant of either union: as strict as serde in its own fields; unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False, protected_namespaces=())

    index: ClassVar[int]
    variants: ClassVar[dict[str, type["Variant"]]]

    def __init_subclass__(cls, index: int | None = None, **config: Any) -> None:
        super().__init_subclass__(**config)
        if index is None:  # a union, not a variant of one
            cls.variants = {}
            return
        if any(other.index == index and other.__name__ != cls.__name__ for other in cls.variants.values()):
            raise TypeError(f"bincode index {index} of {cls.__name__} is taken")
        cls.index = index
        cls.variants[cls.__name__] = cls


class InferRequest(Variant):
    """The union of requests. Every request names a model."""

    model_id: Text

    def repeatable(self, request_id: str) -> Self:
        """The same request with its random choices made by its id: asking twice with one id gives one answer."""
        return self

    @property
    def wants_stream(self) -> bool:
        """Whether the answer is to be sent in chunks, as server-sent events over HTTP."""
        return False

    @property
    def prompt_texts(self) -> Sequence[str]:
        """The texts of one prompt: together they must not be longer than `ingress.max_prompt_kb`."""
        return ()


class InferResponse(Variant):
    """The union of responses."""

    @property
    def tokens(self) -> int:
        """How many tokens were read and generated: an API key may have a budget of them."""
        return 0


class ImageClassification(InferRequest, index=0):
    """`image_data` is the file as it lies on disk. `top_k`: the best so many labels, 5 by default, 0 for all."""

    image_data: bytes
    top_k: U32 | None = None


class ObjectDetection(InferRequest, index=2):
    """`image_data` is the file as it lies on disk. Objects score above `threshold`, 0.5 by default. `top_k`: the best
    so many, by default and with 0 all."""

    image_data: bytes
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: U32 | None = None


class TextEmbedding(InferRequest, index=4):
    """The texts, or token ids of the model in their place. `input_type`: the name of a prompt of the model's folder,
    put before each text. `dimensions`: so many of the vector's first values. `truncate`: whether a text that is too
    long is cut, as by default, or refused."""

    texts: Annotated[list[Text], Field(max_length=MAX_TEXTS)]
    token_ids: Annotated[list[Annotated[list[U32], Field(min_length=1)]], Field(max_length=MAX_TEXTS)] | None = None
    dimensions: Annotated[U32, Field(ge=1)] | None = None
    normalize: bool | None = None
    """Whether vectors have length 1. By default as the model's folder has it, and where `dimensions` cuts them."""
    input_type: Text | None = None
    truncate: bool | None = None

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if self.texts and self.token_ids is not None:
            raise ValueError("only one of texts and token_ids may be given")
        return self

    @property
    def prompt_texts(self) -> Sequence[str]:
        """The longest one: each is a prompt of its own."""
        return [max(self.texts, key=lambda text: len(text if text.isascii() else text.encode()))] if self.texts else ()


class SpeechToText(InferRequest, index=3):
    """`audio_data` is the sound file as it lies on disk. Without `language` the model detects it. `task` "translate"
    gives English. `timestamps`: the times of segments, or of words too. `stream`: segments as they are ready."""

    audio_data: bytes
    language: Text | None = None
    task: Literal["transcribe", "translate"] | None = None
    timestamps: Literal["segment", "word"] | None = None
    stream: bool | None = None

    @property
    def wants_stream(self) -> bool:
        return bool(self.stream)


class Prompt(ChatOptions):
    """What a text model continues: a text, a chat for the model's own template, or token ids; new tokens at most."""

    prompt: Text
    max_tokens: U32
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    prompt_ids: list[U32] | None = None
    control_tokens: bool | None = None
    """Whether control tokens that the prompt spells are those tokens, and not the text that spells them."""
    suffix: Text | None = None
    """What follows the text: the model fills in between it and the prompt."""
    stream: bool | None = None

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if bool(self.prompt) + (self.messages is not None) + (self.prompt_ids is not None) > 1:
            raise ValueError("only one of prompt, messages and prompt_ids may be given")
        if self.suffix and (self.messages is not None or self.prompt_ids is not None):
            raise ValueError("a suffix needs a prompt that is text")
        if self.continue_final_message and (not self.messages or self.messages[-1].role != "assistant"):
            raise ValueError("continue_final_message needs a last message of the assistant")
        if self.continue_final_message and self.add_generation_prompt:
            raise ValueError("continue_final_message and add_generation_prompt exclude each other")
        return self


class SamplingOptions(TokenOptions, SamplingDefaults):
    """How one request chooses its tokens, and what it wants to know of them. Without any it decodes greedily."""

    model_config = ConfigDict(frozen=True)

    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """The log-probability of each token by the model's own logits, and those of so many of the best beside it."""
    prompt_logprobs: bool | None = None
    """With `logprobs`: also those of the prompt's tokens. Each takes a step, as a token of the text does."""
    json_schema: dict[str, Any] | None = None
    """The text is JSON that this schema allows; `{}` for any JSON."""
    seed: U64 | None = None

    @property
    def adjusts_logits(self) -> bool:
        """Whether an option, other than a schema, changes which logit is the largest."""
        penalty = self.repetition_penalty not in (None, 1) or self.presence_penalty or self.frequency_penalty
        return bool(penalty or self.logit_bias or self.min_tokens)

    @property
    def greedy(self) -> bool:
        """Whether the next token is always the one with the largest of the model's own logits."""
        return not (self.temperature or self.adjusts_logits or self.json_schema is not None)


class TextGeneration(SamplingOptions, Prompt, InferRequest, index=1):
    """`max_tokens` counts new tokens. Without options decoding is greedy; `temperature` 0 is greedy too.

    `messages`, put into the model's own chat template, or `prompt_ids` may stand in place of the prompt, which is
    empty then. `stream`: over HTTP, server-sent events. `logprobs`: each token's, and so many alternatives.
    `json_schema`: the text is JSON of this schema, `{}` for any.
    """

    @property
    def wants_stream(self) -> bool:
        return bool(self.stream)

    @property
    def prompt_texts(self) -> Sequence[str]:
        messages = [text for message in self.messages or () for text in message.texts]
        options = (json.dumps(value, ensure_ascii=False) for value in (self.tools, self.chat_template_kwargs) if value)
        return [self.prompt, self.suffix or "", *messages, *options]

    def repeatable(self, request_id: str) -> Self:
        if not self.temperature or self.seed is not None:
            return self
        seed = int.from_bytes(blake2b(request_id.encode(), digest_size=8).digest()) >> 1
        return self.model_copy(update={"seed": seed})


class ImageClassificationResult(InferResponse, index=0):
    """Parallel lists, most probable first. Labels may repeat."""

    class_labels: list[str]
    probabilities: list[float]
    model_id: str | None = None


class TextGenerationResult(InferResponse, index=1):
    """The continuation without the prompt.

    `finish_reason` is "stop" (the model's end or a stop string), "length", or "deadline" where its time was over.
    """

    generated_text: str
    model_id: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[PromptToken] | None = None
    markup: Markup | None = None

    @property
    def tokens(self) -> int:
        return self.usage.prompt_tokens + self.usage.completion_tokens if self.usage else 0


class ObjectDetectionResult(InferResponse, index=3):
    """Parallel lists, best first. Labels may repeat; boxes lie within the image."""

    class_labels: list[str]
    scores: list[float]
    boxes: list[Box]
    model_id: str | None = None


class TextEmbeddingResult(InferResponse, index=5):
    """One vector a text, in order."""

    embeddings: list[list[float]]
    model_id: str | None = None
    usage: Usage | None = None
    """Special tokens count, padding does not."""

    @property
    def tokens(self) -> int:
        return self.usage.prompt_tokens if self.usage else 0


class SpeechToTextResult(InferResponse, index=4):
    """What is said. `segments` and `words` where their times were asked for."""

    text: str
    segments: list[SpeechSegment] | None = None
    words: list[SpeechSegment] | None = None
    language: str | None = None
    duration_s: float | None = None
    model_id: str | None = None


class Error(InferResponse, index=2):
    """A failure of any kind. `code` is a row of the contract's table."""

    message: str
    code: str | None = None
    retryable: bool | None = None
    retry_after_ms: int | None = None
    request_id: str | None = None

    @classmethod
    def of(cls, failure: ServingError, request_id: str | None = None) -> "Error":
        return cls(
            message=failure.message,
            code=failure.code,
            retryable=failure.retryable,
            retry_after_ms=failure.retry_after_ms,
            request_id=request_id,
        )

    def exception(self) -> ServingError:
        """The exception this error stands for, for callers that raise."""
        failure = ERRORS.get(self.code or "", Internal)(self.message)
        failure.retry_after_ms = self.retry_after_ms
        if self.retryable is not None:
            failure.retryable = self.retryable
        return failure
