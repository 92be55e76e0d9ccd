"""A conversation in place of a prompt: its messages, and what the model's chat template gets beside them."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from deployments.contract.scalars import Text

_OWN_NAMES = frozenset(
    [
        *("messages", "tools", "documents", "conversations", "chat_template"),
        *("add_generation_prompt", "continue_final_message", "return_assistant_tokens_mask"),
    ]
)


def _json(value: object) -> object:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("lone surrogates are not Unicode text") from None
    except TypeError:
        raise ValueError("is not JSON") from None
    return value


def _variables(variables: dict[str, Any]) -> dict[str, Any]:
    if taken := sorted(_OWN_NAMES & variables.keys()):
        raise ValueError(f"{taken[0]} is no variable for the template")
    return variables


class Function(BaseModel):
    """A function that the assistant called. `arguments` is JSON."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    name: Text
    arguments: Text


class ToolCall(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    id: Text | None = None
    type: Literal["function"] = "function"
    function: Function


class Message(BaseModel):
    """One turn of a conversation. A "tool" answers the call of `tool_call_id`."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    role: Literal["system", "user", "assistant", "tool"]
    content: Text
    name: Text | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: Text | None = None
    reasoning_content: Text | None = None

    @property
    def texts(self) -> Iterator[str]:
        """All that the model reads of it."""
        yield from filter(None, (self.content, self.name, self.tool_call_id, self.reasoning_content))
        for call in self.tool_calls or ():
            yield from (call.function.name, call.function.arguments)


ToolCallFormat = Literal["hermes", "xml", "llama", "mistral", "json"]
"""How a model writes calls; serve_app/http/openai/parsing/tool_calls.py reads them."""


class Markup(BaseModel):
    """How a model's text marks what is no answer: its reasoning, and calls of tools."""

    tool_calls: ToolCallFormat | None = None
    reasoning: tuple[str, str] | None = None
    """What stands before and after it."""
    in_reasoning: bool = False
    """Whether the text begins within it: the prompt has what stands before."""


class ChatOptions(BaseModel):
    """What becomes of a conversation in the model's chat template."""

    tools: Annotated[list[dict[str, Any]], Field(min_length=1), AfterValidator(_json)] | None = None
    """For the template, as OpenAI describes tools."""
    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(_variables), AfterValidator(_json)] | None = None
    """Further variables for the template, such as `enable_thinking`."""
    continue_final_message: bool | None = None
    """The last message, which is the assistant's, is continued: its turn is not closed."""
    add_generation_prompt: bool | None = None
    """Whether the template begins the assistant's turn; true by default, but for a message that is continued."""

    markup: bool | None = None
    """The text keeps the control tokens that mark its parts, and the answer says which they are."""

    @property
    def begins_turn(self) -> bool:
        return not self.continue_final_message if self.add_generation_prompt is None else self.add_generation_prompt
