"""The grammar of a text whose calls of tools keep to the schemas of their arguments, as `strict` asks. Pure.

A grammar is a text in llguidance's form of Lark. The forms in which models write calls are those of `ToolCallFormat`.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from deployments.contract.chat import ToolCallFormat

_TERMINALS = r"""%llguidance {}
TEXT: /(.|\n)*/
OTHER: /\s*([^\s\[{](.|\n)*)?/
SPACE: /[ \n]{0,3}/
"""
_STARTS: dict[ToolCallFormat, str] = {
    "hermes": 'start: (begins SPACE call SPACE "</tool_call>")* TEXT',
    "mistral": 'start: TEXT | begins SPACE "[" call (SPACE "," SPACE call)* SPACE "]"',
    "llama": "start: OTHER | begins? calls\ncalls: SPACE call (SPACE /[;,]/ SPACE call)*",
    "json": 'start: OTHER | SPACE call | SPACE "[" SPACE call (SPACE "," SPACE call)* SPACE "]"',
}
"""What a text is. OTHER is a text that does not begin as a call does."""
_MARKS: dict[ToolCallFormat, str] = {"hermes": "<tool_call>", "mistral": "[TOOL_CALLS]", "llama": "<|python_tag|>"}
_SPACES = {"x-guidance": {"whitespace_pattern": "[ ]?"}}
"""At most one space between the parts of JSON: a model that prefers white space would never end."""


def strict_calls(
    tools: Iterable[Mapping[str, Any]] | None, form: ToolCallFormat | None, special_tokens: Mapping[str, int]
) -> str | None:
    """None where no function has `strict`, and for the form "xml", whose arguments are no JSON.

    `special_tokens`: the ids of marks that are special tokens; other marks are text.
    """
    functions = [tool["function"] for tool in tools or () if _is_function(tool.get("function"))]
    if form == "xml" or not any(function.get("strict") is True for function in functions):
        return None
    form = form or "json"
    rules = [_TERMINALS + _STARTS[form], "call: " + " | ".join(f"call{n}" for n in range(len(functions)))]
    if mark := _MARKS.get(form):
        token = special_tokens.get(mark)
        # A lazy rule ends with the first mark: what follows a mark is a call.
        before = "" if form == "llama" else "TEXT "
        rules.append(f"begins[lazy]: {before}{json.dumps(mark)}" if token is None else f"begins: {before}<[{token}]>")
    for n, function in enumerate(functions):
        arguments = "parameters" if form == "llama" else "arguments"
        head = f'{{"name": {json.dumps(function["name"])}, "{arguments}": '
        rules += [f'call{n}: {json.dumps(head)} arguments{n} SPACE "}}"', f"arguments{n}: %json {_schema(function)}"]
    return "\n".join(rules)


def _is_function(function: object) -> bool:
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _schema(function: Mapping[str, Any]) -> str:
    """Of any object where the function is not strict."""
    parameters = function.get("parameters") if function.get("strict") is True else None
    return json.dumps((parameters if isinstance(parameters, dict) else {"type": "object"}) | _SPACES)
