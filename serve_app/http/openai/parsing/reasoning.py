"""Splits a model's text, as it comes, into its reasoning and what follows that. Pure."""

from deployments.contract.chat import Markup
from serve_app.http.openai.parsing.delta import Delta


class ReasoningSplitter:
    """Reasoning stands at the beginning of a text or nowhere. White space around it belongs to neither part."""

    def __init__(self, markup: Markup) -> None:
        self._start, self._end = markup.reasoning or ("", "")
        self._phase = "before" if self._start else "after"
        if markup.in_reasoning:
            self._phase = "reasoning"
        self._held = ""
        self._blank = True
        """Whether the part under way has had nothing but white space."""

    def feed(self, text: str) -> Delta:
        self._held += text
        delta = Delta()
        if self._phase == "before":
            self._look_for_start()
        if self._phase == "reasoning":
            delta.reasoning = self._reasoning()
        if self._phase == "answer":
            self._held = self._held.lstrip()
            self._phase = "after" if self._held else "answer"
        if self._phase == "after":
            delta.text, self._held = self._held, ""
        return delta

    def end(self) -> Delta:
        """What was held back."""
        held, self._held = self._held, ""
        return Delta(reasoning=held.rstrip()) if self._phase == "reasoning" else Delta(text=held)

    def _look_for_start(self) -> None:
        begun = self._held.lstrip()
        if begun.startswith(self._start):
            self._phase, self._held = "reasoning", begun[len(self._start) :]
        elif not self._start.startswith(begun):
            self._phase = "after"

    def _reasoning(self) -> str:
        if self._blank:
            self._held = self._held.lstrip()
        text, mark, rest = self._held.partition(self._end)
        if mark:
            self._phase, self._held = "answer", rest
            return text.rstrip()
        text = text[: len(text) - overlap(text, self._end)].rstrip()
        self._held = self._held[len(text) :]
        self._blank = self._blank and not text
        return text


def overlap(text: str, mark: str) -> int:
    """The length of the longest beginning of `mark` that ends `text`."""
    return next((size for size in range(min(len(text), len(mark)), 0, -1) if text.endswith(mark[:size])), 0)
