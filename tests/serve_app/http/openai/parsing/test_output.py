"""Reasoning, text and calls of one output, in this order, each as it comes."""

from typing import Any

import pytest

from deployments.contract.chat import Markup, ToolCallFormat
from serve_app.http.openai.parsing.output import OutputParser
from serve_app.http.openai.parsing.tool_calls import FORMATS, ToolCallParser
from tests.serve_app.http.openai.parsing.model_outputs import OUTPUTS, THINK, TOOLS, parsed


def parser_of(kind: ToolCallFormat, **fields: Any) -> OutputParser:
    return OutputParser(Markup(tool_calls=kind, **fields), ToolCallParser(FORMATS[kind], TOOLS))


@pytest.mark.parametrize(("kind", "text", "meant", "calls"), OUTPUTS)
def test_calls_are_found_after_reasoning(
    kind: ToolCallFormat, text: str, meant: str, calls: list[tuple[str, str]]
) -> None:
    for pieces in ([f"I think so.\n</think>\n\n{text}"], list(f"I think so.\n</think>\n\n{text}")):
        parser = parser_of(kind, reasoning=THINK, in_reasoning=True)
        assert parsed(parser, pieces) == (meant.lstrip(), "I think so.", calls)


def test_arguments_come_as_they_are_written() -> None:
    parser = parser_of("hermes")
    deltas = [parser.feed(piece) for piece in ('<tool_call>{"name": "time', '", "arguments": {"a', '": 1', "}}")]
    assert [[(call.index, call.name, call.arguments) for call in delta.calls] for delta in deltas] == [
        [],
        [(0, "time", '{"a')],
        [(0, None, '": 1')],
        [(0, None, "}")],
    ]
    assert parser.finish_reason("stop") == "tool_calls"
    assert parser.finish_reason("length") == "length"
    assert parser_of("hermes").finish_reason("stop") == "stop"
