"""The body of OpenAI's /v1/responses, as the chat that it asks for. Pure; knows no HTTP."""

from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from deployments.contract.scalars import Text
from deployments.contract.text_generation import SamplingDefaults, TokenOptions
from deployments.contract.types import TextGeneration
from serve_app.http.openai.chat import ChatBody
from serve_app.http.openai.fields import NOTHING, UNSUPPORTED
from serve_app.http.openai.requests import Fields, Ignored, RequestBody, StreamOptions
from serve_app.http.openai.responses import Object

_LOGPROBS = "message.output_text.logprobs"


class _Item(BaseModel):
    # Clients send the items of earlier responses back, with all their fields.
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _TextPart(_Item):
    type: Literal["input_text", "output_text", "text", "reasoning_text", "summary_text"]
    text: Text


def _form(value: object) -> str:
    return "text" if isinstance(value, str) else "list"


_Parts = TypeVar("_Parts")
_TextOr = Annotated[Annotated[Text, Tag("text")] | Annotated[_Parts, Tag("list")], Discriminator(_form)]
"""A union whose errors are those of the form that was sent."""
_Content = _TextOr[list[_TextPart]]


class _MessageItem(_Item):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: _Content


class _ReasoningItem(_Item):
    type: Literal["reasoning"]
    content: list[_TextPart] | None = None
    summary: list[_TextPart] = []


class _CallItem(_Item):
    type: Literal["function_call"]
    call_id: Text
    name: Text
    arguments: Text


class _ResultItem(_Item):
    type: Literal["function_call_output"]
    call_id: Text
    output: _Content


def _kind(item: object) -> str:
    return str(item.get("type", "message")) if isinstance(item, dict) else ""


def _not_kept(item: object) -> object:
    raise ValueError("items are not kept by this server: send them whole (store: false)")


_AnyItem = Annotated[
    Annotated[_MessageItem, Tag("message")]
    | Annotated[_ReasoningItem, Tag("reasoning")]
    | Annotated[_CallItem, Tag("function_call")]
    | Annotated[_ResultItem, Tag("function_call_output")]
    | Annotated[_MessageItem, BeforeValidator(_not_kept), Tag("item_reference")],
    Discriminator(_kind),
]


class _FunctionTool(_Item):
    type: Literal["function"]
    name: Text
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _NamedTool(_Item):
    type: Literal["function"]
    name: Text


class _Format(Fields):
    type: Literal["text", "json_object", "json_schema"]
    name: Text | None = None
    description: Ignored = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: Ignored = None


class _TextOptions(Fields):
    format: _Format | None = None
    verbosity: Literal["medium"] | None = None


class _Reasoning(Fields):
    effort: Text | None = None
    summary: Ignored = None
    generate_summary: Ignored = None
    context: Ignored = None


class ResponseBody(TokenOptions, SamplingDefaults, RequestBody):
    """Nothing is kept, so that no later request can name the response."""

    unsupported = (
        UNSUPPORTED
        | dict.fromkeys(
            [
                *("previous_response_id", "conversation", "background", "prompt", "context_management", "moderation"),
                *("background_options", "access_programs", "image"),
            ],
            NOTHING,
        )
        | {"truncation": ("disabled",), "max_tool_calls": ()}
    )

    model: Text
    input: _TextOr[Annotated[list[_AnyItem], Field(min_length=1)]]
    instructions: Text | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=2**32 - 1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    seed: int | None = None
    tools: list[_FunctionTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | _NamedTool | None = None
    parallel_tool_calls: bool | None = None
    text: _TextOptions | None = None
    reasoning: _Reasoning | None = None
    include: list[Literal["reasoning.encrypted_content", "message.output_text.logprobs"]] | None = None
    """There is no encrypted reasoning: it comes as it is."""
    metadata: dict[str, Any] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @cached_property
    def requests(self) -> list[TextGeneration]:
        return self.chat.requests

    @cached_property
    def chat(self) -> ChatBody:
        """What it asks for. Raises ValidationError."""
        return ChatBody.model_validate({name: value for name, value in self._chat().items() if value is not None})

    def echo(self, response_id: str, created_at: int) -> Object:
        """The fields of the response that are known before it begins."""
        effort = self.reasoning.effort if self.reasoning else None
        choice, text = self.tool_choice or "auto", self.text or _TextOptions()
        return {
            "id": response_id,
            "object": "response",
            "created_at": created_at,
            "model": self.model,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": effort, "summary": None},
            "store": False,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "text": {"format": {"type": "text"}} | text.model_dump(exclude_none=True, by_alias=True),
            "tool_choice": choice.model_dump() if isinstance(choice, _NamedTool) else choice,
            "tools": [tool.model_dump() for tool in self.tools or ()],
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "truncation": "disabled",
        }

    def _chat(self) -> dict[str, object]:
        sampling = {name: getattr(self, name) for name in (*SamplingDefaults.model_fields, *TokenOptions.model_fields)}
        logprobs = bool(self.top_logprobs or _LOGPROBS in (self.include or ()))
        return sampling | {
            "model": self.model,
            "messages": self._messages(),
            "max_completion_tokens": self.max_output_tokens,
            "seed": self.seed,
            "logprobs": logprobs,
            "top_logprobs": self.top_logprobs if logprobs else None,
            "tools": [_tool(tool) for tool in self.tools or ()] or None,
            "tool_choice": self._tool_choice(),
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": self._response_format(),
            "reasoning_effort": self.reasoning.effort if self.reasoning else None,
            "chat_template_kwargs": self.chat_template_kwargs,
            "stream": self.stream,
        }

    def _messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        if self.instructions:
            messages.append({"role": "system", "content": self.instructions})
        items = [_MessageItem(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        turn: dict[str, Any] | None = None  # The assistant's, which may still get more items.
        for item in items:
            if isinstance(item, _ResultItem):
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
                turn = None
            elif isinstance(item, _MessageItem) and item.role != "assistant":
                messages.append({"role": item.role, "content": _text(item.content)})
                turn = None
            else:
                if turn is None or (isinstance(item, _MessageItem) and (turn["content"] or turn.get("tool_calls"))):
                    turn = {"role": "assistant", "content": ""}
                    messages.append(turn)
                _extend(turn, item)
        return messages

    def _tool_choice(self) -> object:
        if isinstance(self.tool_choice, _NamedTool):
            return {"type": "function", "function": {"name": self.tool_choice.name}}
        # Without tools it asks for nothing.
        return self.tool_choice if self.tools or self.tool_choice == "required" else None

    def _response_format(self) -> object:
        form = self.text.format if self.text else None
        if form is None or form.type == "text":
            return None
        return {"type": form.type, "json_schema": {"name": form.name, "schema": form.schema_}}


def _extend(turn: dict[str, Any], item: _MessageItem | _ReasoningItem | _CallItem) -> None:
    if isinstance(item, _MessageItem):
        turn["content"] = _text(item.content)
    elif isinstance(item, _ReasoningItem):
        turn["reasoning_content"] = turn.get("reasoning_content", "") + _text(item.content or item.summary)
    else:
        function = {"name": item.name, "arguments": item.arguments}
        turn.setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": function})


def _text(content: str | list[_TextPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _tool(tool: _FunctionTool) -> dict[str, object]:
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}
