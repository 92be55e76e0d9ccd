"""What models of each template family write, whole and in any pieces, means the same text and calls."""

import pytest

from deployments.contract.chat import Markup, ToolCallFormat
from serve_app.http.openai.parsing.output import OutputParser
from serve_app.http.openai.parsing.tool_calls import FORMATS, LIST, ToolCallParser
from tests.serve_app.http.openai.parsing.model_outputs import OUTPUTS, TOOLS, parsed, pieces_of


@pytest.mark.parametrize(("kind", "text", "meant", "calls"), OUTPUTS)
def test_calls_are_found_however_the_text_comes(
    kind: ToolCallFormat, text: str, meant: str, calls: list[tuple[str, str]]
) -> None:
    for pieces in pieces_of(text):
        parser = ToolCallParser(FORMATS[kind], TOOLS)
        assert parsed(OutputParser(Markup(), parser), pieces) == (meant, "", calls), pieces


@pytest.mark.parametrize("text", ['[{"name":"time","arguments":{"a":1}},{"name":"weather","arguments":{}}]'])
def test_a_list_that_was_demanded_is_read_up_to_the_number_that_is_allowed(text: str) -> None:
    for pieces in pieces_of(text):
        assert parsed(OutputParser(Markup(), ToolCallParser(LIST, TOOLS)), pieces) == (
            "",
            "",
            [("time", '{"a":1}'), ("weather", "{}")],
        )
        one = OutputParser(Markup(), ToolCallParser(LIST, TOOLS, most=1))
        assert parsed(one, pieces) == ("", "", [("time", '{"a":1}')])
    answer = '{"name":"time"}'
    assert parsed(OutputParser(Markup(), ToolCallParser(LIST, TOOLS)), list(answer)) == (answer, "", [])


def test_arguments_that_were_demanded_are_those_of_the_named_tool() -> None:
    for pieces in pieces_of('{"a":[1,{"b":"}"}]}'):
        parser = OutputParser(Markup(), ToolCallParser(LIST, TOOLS, named="time"))
        assert parsed(parser, pieces) == ("", "", [("time", '{"a":[1,{"b":"}"}]}')])
