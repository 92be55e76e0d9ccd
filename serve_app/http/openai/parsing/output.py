"""Reads what a model writes, as it comes: its reasoning, its text and its calls of tools. Pure."""

from deployments.contract.chat import Markup
from serve_app.http.openai.parsing.delta import Delta
from serve_app.http.openai.parsing.reasoning import ReasoningSplitter
from serve_app.http.openai.parsing.tool_calls import ToolCallParser


class OutputParser:
    """Of one text. Without `calls` there are none in it."""

    def __init__(self, markup: Markup, calls: ToolCallParser | None = None) -> None:
        self._reasoning = ReasoningSplitter(markup)
        self._calls = calls
        self.called = False
        """Whether there was a call."""

    def feed(self, text: str) -> Delta:
        return self._with_calls(self._reasoning.feed(text))

    def end(self) -> Delta:
        """What was held back."""
        return self._with_calls(self._reasoning.end(), last=True)

    def whole(self, text: str) -> Delta:
        delta = self.feed(text)
        delta += self.end()
        return delta

    def finish_reason(self, reason: str | None) -> str | None:
        return "tool_calls" if self.called and reason == "stop" else reason

    def _with_calls(self, delta: Delta, last: bool = False) -> Delta:
        if self._calls is not None:
            text, delta.text = delta.text, ""
            delta += self._calls.feed(text, last)
            self.called = self.called or bool(delta.calls)
        return delta
