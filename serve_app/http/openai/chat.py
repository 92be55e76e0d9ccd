"""The body of OpenAI's chats, and the TextGeneration requests that it becomes. Pure; knows no HTTP."""

from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.json_schema import WithJsonSchema

from deployments.contract.chat import Message
from deployments.contract.scalars import Text
from deployments.contract.types import TextGeneration
from serve_app.http.openai.fields import NOTHING, UNSUPPORTED, WHOLE_CONTEXT
from serve_app.http.openai.requests import Body


def _unsupported(value: object) -> None:
    if value:
        raise ValueError("is not supported by this server")


def _content(value: object) -> object:
    """The text of a message that is a string, a list of text parts, or null."""
    if isinstance(value, list):
        texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in value]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("the only supported content parts are text")
        return "".join(map(str, texts))
    return "" if value is None else value


Unsupported = Annotated[Any, AfterValidator(_unsupported)]
_TEXT = {"type": "string"}
_TEXT_PART = {"type": "object", "properties": {"type": {"const": "text"}, "text": _TEXT}, "required": ["type", "text"]}
_CONTENT = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT_PART}, {"type": "null"}]}


class _ChatMessage(BaseModel):
    # Clients send earlier responses back, with all their fields.
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text, BeforeValidator(_content), WithJsonSchema(_CONTENT)] = ""
    tool_calls: Unsupported = None
    function_call: Unsupported = None
    audio: Unsupported = None
    prefix: bool | None = None
    """DeepSeek's and Mistral's way to say `continue_final_message`."""

    def message(self) -> Message:
        return Message(role="system" if self.role == "developer" else self.role, content=self.content)


class ChatBody(Body):
    unsupported = (
        UNSUPPORTED
        | dict.fromkeys(
            [
                *("tools", "functions", "audio", "moderation", "web_search_options"),
                *("echo", "documents", "chat_template", "mm_processor_kwargs", "media_io_kwargs", "add_special_tokens"),
            ],
            NOTHING,
        )
        | {
            "modalities": (["text"],),
            "verbosity": ("medium",),
            # Without tools they ask for nothing.
            "tool_choice": ("none", "auto"),
            "function_call": ("none", "auto"),
            "parallel_tool_calls": (True, False),
        }
    )

    messages: Annotated[list[_ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, le=2**32 - 1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**32 - 1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    reasoning_effort: Text | None = None
    """For templates that read it, as gpt-oss's does; "none" also as `enable_thinking`, which Qwen's and others read."""
    # vLLM's
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None

    @model_validator(mode="after")
    def _servable(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is only allowed when logprobs is true")
        return self

    @cached_property
    def requests(self) -> list[TextGeneration]:
        """One for each choice."""
        continues = self.continue_final_message or self.messages[-1].prefix
        request = self._request(
            max_tokens=self.max_completion_tokens or self.max_tokens or WHOLE_CONTEXT,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            messages=[message.message() for message in self.messages],
            chat_template_kwargs=self._variables() or None,
            continue_final_message=continues or None,
            add_generation_prompt=self.add_generation_prompt,
        )
        return self._each_choice(request)

    def _variables(self) -> dict[str, Any]:
        effort: dict[str, Any] = {} if self.reasoning_effort is None else {"reasoning_effort": self.reasoning_effort}
        if self.reasoning_effort == "none":
            effort["enable_thinking"] = False
        return effort | (self.chat_template_kwargs or {})
