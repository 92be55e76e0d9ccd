"""Reads one call of a tool as Qwen's coders write it. Pure.

`<function=name><parameter=key>value</parameter>…</function>`
"""

import json
import re
from collections.abc import Mapping
from typing import Any

_END = "</function>"
_NAME = re.compile(r"<function=([^>]*)>")
_PARAMETER = re.compile(r"<parameter=([^>]*)>\n?(.*?)\n?</parameter>", re.DOTALL)


class XmlCallScanner:
    """Takes the text of one call as it comes; it must begin with `<function=`. Its arguments come when it is complete.

    `tools`: the schema of each tool's arguments. A value that is no string there is JSON.
    """

    def __init__(self, tools: Mapping[str, Mapping[str, Any]]) -> None:
        self.name: str | None = None
        self.raw = ""
        self.ended = False
        self._tools = tools
        self._taken = False

    def feed(self, text: str) -> str:
        """Returns what follows the call."""
        self.raw += text
        if self.name is None and (named := _NAME.match(self.raw)):
            self.name = named[1].strip()
        before, end, rest = self.raw.partition(_END)
        if not end:
            return ""
        self.ended, self.raw = True, before + end
        return rest

    def take(self) -> str:
        """The arguments, once."""
        if not self.ended or self._taken:
            return ""
        self._taken = True
        kinds = self._tools.get(self.name or "", {}).get("properties", {})
        found = {key: _value(value, kinds.get(key)) for key, value in _PARAMETER.findall(self.raw)}
        return json.dumps(found, ensure_ascii=False)


def _value(text: str, schema: object) -> object:
    kind = schema.get("type") if isinstance(schema, dict) else None
    if kind == "string" or (isinstance(kind, list) and "string" in kind):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
