"""The body of OpenAI's chats, and the TextGeneration requests that it becomes. Pure; knows no HTTP."""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.json_schema import WithJsonSchema

from deployments.contract.chat import Markup, Message, ToolCall
from deployments.contract.scalars import Text
from deployments.contract.types import TextGeneration
from serve_app.http.openai.fields import NOTHING, UNSUPPORTED, WHOLE_CONTEXT
from serve_app.http.openai.parsing.output import OutputParser
from serve_app.http.openai.parsing.tool_calls import FORMATS, LIST, ToolCallParser
from serve_app.http.openai.requests import Body
from serve_app.http.openai.tools import NamedTool, Tool, ToolChoice, arguments_schema, calls_schema


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

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[Text, BeforeValidator(_content), WithJsonSchema(_CONTENT)] = ""
    name: Text | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: Text | None = None
    reasoning_content: Text | None = None
    function_call: Unsupported = None
    audio: Unsupported = None
    prefix: bool | None = None
    """DeepSeek's and Mistral's way to say `continue_final_message`."""

    def message(self, names: Mapping[str, str]) -> Message:
        """`names`: those of the tools that were called, by the ids of the calls."""
        called = self.role == "tool" and self.name is None and self.tool_call_id is not None
        return Message(
            role="system" if self.role == "developer" else self.role,
            content=self.content,
            name=names.get(self.tool_call_id or "") if called else self.name,
            tool_calls=self.tool_calls or None,
            tool_call_id=self.tool_call_id,
            reasoning_content=self.reasoning_content,
        )


class ChatBody(Body):
    unsupported = (
        UNSUPPORTED
        | dict.fromkeys(
            [
                *("functions", "audio", "moderation", "web_search_options"),
                *("echo", "documents", "chat_template", "mm_processor_kwargs", "media_io_kwargs", "add_special_tokens"),
            ],
            NOTHING,
        )
        | {
            "modalities": (["text"],),
            "verbosity": ("medium",),
            "function_call": ("none", "auto"),  # Without functions it asks for nothing.
            "include_reasoning": (True,),
        }
    )

    messages: Annotated[list[_ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, le=2**32 - 1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**32 - 1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    reasoning_effort: Text | None = None
    """For templates that read it, as gpt-oss's does; "none" also as `enable_thinking`, which Qwen's and others read."""
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    # vLLM's
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None

    @model_validator(mode="after")
    def _servable(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is only allowed when logprobs is true")
        if isinstance(self.tool_choice, NamedTool) and self._named is None:
            raise ValueError("tool_choice names a tool that is not in tools")
        if self.tool_choice == "required" and not self.tools:
            raise ValueError("tool_choice is only allowed when tools are specified")
        return self

    @property
    def _callable(self) -> list[Tool]:
        return [] if self.tool_choice == "none" else self.tools or []

    @property
    def _named(self) -> Tool | None:
        """The tool that must be called."""
        name = self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else None
        return next((tool for tool in self._callable if tool.function.name == name), None)

    @property
    def _most_calls(self) -> int | None:
        return 1 if self.parallel_tool_calls is False else None

    def parser(self, markup: Markup) -> OutputParser:
        """For the text of one choice."""
        tools = {tool.function.name: arguments_schema(tool) for tool in self._callable}
        if not tools:
            return OutputParser(markup)
        if self._json_schema is None:
            form = FORMATS[markup.tool_calls or "json"]
            return OutputParser(markup, ToolCallParser(form, tools, self._most_calls))
        named = self._named.function.name if self._named else None
        return OutputParser(markup, ToolCallParser(LIST, tools, self._most_calls, named))

    @property
    def _json_schema(self) -> dict[str, Any] | None:
        """What calls are demanded, what the answer must be, or either."""
        answer = super()._json_schema
        if self._named is not None:
            return arguments_schema(self._named)
        if self.tool_choice == "required":
            return calls_schema(self._callable, self._most_calls)
        if answer is None or not self._callable:
            return answer
        return calls_schema(self._callable, self._most_calls, answer)

    @cached_property
    def requests(self) -> list[TextGeneration]:
        """One for each choice."""
        continues = self.continue_final_message or self.messages[-1].prefix
        calls = [call for message in self.messages for call in message.tool_calls or ()]
        names = {call.id: call.function.name for call in calls if call.id is not None}
        request = self._request(
            max_tokens=self.max_completion_tokens or self.max_tokens or WHOLE_CONTEXT,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            messages=[message.message(names) for message in self.messages],
            tools=[tool.for_template() for tool in self._callable] or None,
            markup=True,
            chat_template_kwargs=self._variables() or None,
            continue_final_message=continues or None,
            add_generation_prompt=self.add_generation_prompt,
        )
        return self._each_choice(request)

    @property
    def left_open(self) -> dict[str, object]:
        says_length = self.max_completion_tokens or self.max_tokens
        return super().left_open | ({} if says_length else {"max_tokens": WHOLE_CONTEXT})

    def _variables(self) -> dict[str, Any]:
        effort: dict[str, Any] = {} if self.reasoning_effort is None else {"reasoning_effort": self.reasoning_effort}
        if self.reasoning_effort == "none":
            effort["enable_thinking"] = False
        return effort | (self.chat_template_kwargs or {})
