"""Finds the calls of tools in a model's text as it comes. Pure.

| format | written by | a call |
|---|---|---|
| hermes | Hermes, Qwen | `<tool_call>{"name": …, "arguments": {…}}</tool_call>` |
| xml | Qwen 3 Coder, Qwen 3.5 | `<tool_call><function=name><parameter=key>value</parameter></function></tool_call>` |
| llama | Llama 3 | `{"name": …, "parameters": {…}}` alone, or after `<|python_tag|>`; several with `;` between |
| mistral | Mistral | `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`, later `[TOOL_CALLS]name[ARGS]{…}` |
| json | other models | one object, or a list of them, and nothing else |
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from serve_app.http.openai.parsing.call_scanner import CallScanner
from serve_app.http.openai.parsing.delta import CallDelta, Delta, new_call_id
from serve_app.http.openai.parsing.reasoning import overlap
from serve_app.http.openai.parsing.xml_call_scanner import XmlCallScanner


@dataclass(frozen=True, slots=True)
class Format:
    start: str = ""
    """What stands before calls; "" where only a whole text is calls."""
    end: str = ""
    between: str = ""
    """Characters that may stand around calls."""
    whole_text: str = ""
    """The characters with which a text that is calls and nothing else begins."""
    opens: str = "{"
    """What a call begins with."""
    named: bool = False
    """Whether the name may stand before the arguments, instead of in an object with them."""


FORMATS = {
    "hermes": Format("<tool_call>", "</tool_call>"),
    "xml": Format("<tool_call>", "</tool_call>", opens="<function="),
    "llama": Format("<|python_tag|>", between=";,", whole_text="{"),
    "mistral": Format("[TOOL_CALLS]", between="[],", named=True),
    "json": Format(between="[],;", whole_text="[{"),
}
LIST = Format(between="[],", whole_text="[")
"""The list that `tools.calls_schema` allows."""
_NAMED = re.compile(r"([\w.-]{1,128})\s*(?:\[CALL_ID\]\s*\w*\s*)?(?:\[ARGS\]\s*)?(?=\{)")
_NAME_BEGINS = re.compile(r"[\w.-]{1,128}\s*(?:\[[\w\s\[\]]{0,64})?")


class ToolCallParser:
    """`tools`: those that may be called, and the schemas of their arguments. `most`: further calls are dropped.

    `named`: the text is the arguments of a call of this tool.
    """

    def __init__(
        self, form: Format, tools: Mapping[str, Mapping[str, Any]], most: int | None = None, named: str | None = None
    ) -> None:
        self._format = form
        self._tools = tools
        self._most = most
        self._phase: Literal["start", "text", "block", "call"] = "start" if named is None else "call"
        self._held = ""
        self._block = ""
        """The block so far, which is text again if it turns out to be no call."""
        self._whole_text = False
        """Whether the block began without a mark. It is calls only if its first one names a tool."""
        self._scanner: CallScanner | XmlCallScanner = CallScanner(named)
        self._begun = False
        """Whether the call under way has been released."""
        self.calls = 0
        """Those that are complete."""
        self._after_call = False

    def feed(self, text: str, last: bool = False) -> Delta:
        """`last`: nothing follows, so that nothing is held back."""
        self._held += text
        delta = Delta()
        while True:
            phase, held, calls = self._phase, self._held, self.calls
            step = {"start": self._start, "text": self._text, "block": self._in_block, "call": self._call}[phase]
            delta += step(last)
            if (phase, held, calls) == (self._phase, self._held, self.calls):
                return delta

    def _start(self, last: bool) -> Delta:
        """A text may be calls as a whole."""
        begun = self._held.lstrip()
        if begun and begun[0] in self._format.whole_text:
            self._phase, self._block, self._held, self._whole_text = "block", "", begun, True
        elif begun or last:
            self._phase = "text"
        return Delta()

    def _text(self, last: bool) -> Delta:
        if not self._format.start:
            text, self._held = self._held, ""
            return Delta(text)
        if self._after_call:
            self._held = self._held.lstrip()
            self._after_call = not self._held
        text, mark, rest = self._held.partition(self._format.start)
        if mark:
            self._phase, self._block, self._held, self._whole_text = "block", mark, rest, False
            return Delta(text.rstrip())
        if not last:
            # The text before a call does not end with white space.
            text = text[: len(text) - overlap(text, self._format.start)].rstrip()
        self._held = self._held[len(text) :]
        return Delta(text)

    def _in_block(self, last: bool) -> Delta:
        form, held = self._format, self._held
        skipped = held.lstrip()
        while skipped and skipped[0] in form.between and not (form.start and form.start.startswith(skipped[:2])):
            skipped = skipped[1:].lstrip()
        self._block += held[: len(held) - len(skipped)]
        self._held = skipped
        if self.calls and form.end and skipped.startswith(form.end):
            self._held = skipped[len(form.end) :]
            self._to_text()
            return Delta()
        if self.calls and form.start and skipped.startswith(form.start):
            self._block, self._held = form.start, skipped[len(form.start) :]
            return Delta()
        if skipped and not last and any(mark.startswith(skipped) for mark in (form.end, form.start, form.opens)):
            return Delta()
        if skipped.startswith(form.opens):
            return self._begin_call(CallScanner() if form.opens == "{" else XmlCallScanner(self._tools))
        if form.named and (named := _NAMED.match(skipped)):
            self._block += named[0]
            self._held = skipped[named.end() :]
            return self._begin_call(CallScanner(named[1]))
        if form.named and _NAME_BEGINS.fullmatch(skipped) and not last:
            return Delta()
        if skipped or last:
            return self._is_text()
        return Delta()

    def _begin_call(self, scanner: CallScanner | XmlCallScanner) -> Delta:
        self._phase, self._scanner, self._begun = "call", scanner, False
        return Delta()

    def _is_text(self) -> Delta:
        """The block holds no call, or no further one. What stands around calls is no text."""
        marked = self._format.start and self._block.startswith(self._format.start)
        text = self._block if marked or not self.calls else ""
        self._to_text()
        if self._whole_text and not self.calls:
            self._format = Format()
        return Delta(text)

    def _to_text(self) -> None:
        self._phase, self._block, self._after_call = "text", "", self.calls > 0

    def _call(self, last: bool) -> Delta:
        scanner = self._scanner
        self._held = scanner.feed(self._held)
        delta = Delta()
        unknown = self._whole_text and not self.calls and scanner.name not in (None, *self._tools)
        if unknown or (scanner.name is None and (scanner.ended or last)):
            self._held = scanner.raw + self._held
            return self._is_text()
        if scanner.name is not None:
            delta = self._released(scanner)
        if scanner.ended:
            self.calls += 1
            self._phase, self._block = "block", ""
        return delta

    def _released(self, scanner: CallScanner | XmlCallScanner) -> Delta:
        arguments = scanner.take()
        if self._most is not None and self.calls >= self._most:
            return Delta()
        if not self._begun:
            self._begun = True
            return Delta(calls=[CallDelta(self.calls, arguments, new_call_id(), scanner.name)])
        return Delta(calls=[CallDelta(self.calls, arguments)] if arguments else [])
