"""Renders chats with the model's own chat template, in a child process: a template may loop or take all memory."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from deployments.contract.chat import ChatOptions, Markup, Message, ToolCallFormat
from deployments.contract.errors import InvalidRequest, quoted
from deployments.system.worker_process import WorkerFailed, WorkerProcess

WORKER = "deployments.engines.text.chat_template_worker"
RENDER_S = 2.0
_FAILURES = {"timeout": "takes too long", "out of memory": "takes too much memory", "closed": "is being unloaded"}


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A template and what it may use. `added_tokens`: each with whether it is a special one.

    `tool_source`: the template for chats with tools, which often is the same.
    """

    source: str
    tool_source: str
    variables: dict[str, str]
    added_tokens: tuple[tuple[str, bool], ...]

    @property
    def takes_tools(self) -> bool:
        return "tools" in self.tool_source

    @property
    def markup(self) -> Markup:
        """As the template writes earlier turns, so the model writes."""
        source = self.source + self.tool_source
        calls: ToolCallFormat = next((kind for mark, kind in _TOOL_CALL_MARKS if mark in source), "json")
        reasoning = next(((start, end) for start, end in _REASONING_MARKS if end in source), None)
        return Markup(tool_calls=calls if self.takes_tools else None, reasoning=reasoning)

    @property
    def marks(self) -> frozenset[str]:
        """The special tokens that may mark parts of a text."""
        marks = {*chain(*_REASONING_MARKS), *(mark for mark, _ in _TOOL_CALL_MARKS), *_FURTHER_MARKS}
        return frozenset(token for token, special in self.added_tokens if special and token in marks)


_TOOL_CALL_MARKS: tuple[tuple[str, ToolCallFormat], ...] = (
    ("<function=", "xml"),  # Qwen 3 Coder, Qwen 3.5
    ("<tool_call>", "hermes"),  # Hermes, Qwen
    ("[TOOL_CALLS]", "mistral"),
    ("<|python_tag|>", "llama"),
    ("ipython", "llama"),  # The role of tools in Llama 3's own templates.
)
_FURTHER_MARKS = ("</tool_call>", "[ARGS]", "[CALL_ID]")
_REASONING_MARKS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))


class ChatRenderer:
    """Renders one chat at a time; for any thread. The child starts with the first chat and lives until `close`."""

    def __init__(self, template: ChatTemplate, render_s: float = RENDER_S) -> None:
        self.template = template
        self._render_s = render_s
        self._worker = WorkerProcess(WORKER)

    def render(self, messages: Sequence[Message], options: ChatOptions) -> str:
        """The chat as one text, with control tokens in messages marked. Raises InvalidRequest."""
        request = asdict(self.template) | {
            "messages": [message.model_dump(exclude_none=True) for message in messages],
            "tools": options.tools and list(map(_described, options.tools)),
            "chat_template_kwargs": options.chat_template_kwargs or {},
            "continue_final_message": bool(options.continue_final_message),
            "add_generation_prompt": options.begins_turn,
        }
        try:
            rendered: dict[str, str] = self._worker.ask(request, self._render_s)
        except WorkerFailed as failure:
            cause = _FAILURES.get(failure.reason, "ends its process")
            raise InvalidRequest(f"the model's chat template {cause}") from failure
        if "refused" in rendered:
            raise InvalidRequest(f"the model's chat template refuses these messages: {quoted(rendered['refused'])}")
        if "failed" in rendered:
            raise InvalidRequest(f"the model's chat template {rendered['failed']}")
        return rendered["text"]

    def close(self) -> None:
        """Ends the child, and fails a chat under way. From any thread, more than once."""
        self._worker.close()


def _described(tool: dict[str, Any]) -> dict[str, Any]:
    """Without `strict`, which is not for the model."""
    function = tool.get("function")
    if not isinstance(function, dict):
        return tool
    return tool | {"function": {name: value for name, value in function.items() if name != "strict"}}
