"""The schema of calls allows calls of the tools that there are, with arguments that these allow, nothing else."""

from typing import Any

import jsonschema  # type: ignore[import-untyped]  # Ray and schemathesis need it.
import pytest

from serve_app.http.openai.tools import Tool, calls_schema

PLACE = {
    "type": "object",
    "properties": {"place": {"$ref": "#/$defs/Place"}},
    "required": ["place"],
    "$defs": {"Place": {"type": "object", "properties": {"in": {"$ref": "#/$defs/Place"}}, "required": []}},
}
ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/Place"}},
    "$defs": {"Place": {"const": 1}},
}


def tool(**function: Any) -> Tool:
    return Tool.model_validate({"type": "function", "function": function})


WEATHER, TIME = tool(name="weather", parameters=PLACE, strict=True), tool(name="time")


@pytest.mark.parametrize(
    ("text", "most", "answer", "allowed"),
    [
        ([{"name": "weather", "arguments": {"place": {"in": {"in": {}}}}}], None, None, True),
        ([{"name": "time", "arguments": {}}] * 2, None, None, True),
        ([{"name": "time", "arguments": {}}] * 2, 1, None, False),
        ([{"name": "time", "arguments": {"a": 1}}], None, None, False),
        ([{"name": "weather", "arguments": {"place": {"in": 1}}}], None, None, False),
        ([{"name": "other", "arguments": {}}], None, None, False),
        ([], None, None, False),
        ({"a": 1}, None, ANSWER, True),
        ({"a": 2}, None, ANSWER, False),
        ([{"name": "time", "arguments": {}}], None, ANSWER, True),
    ],
)
def test_a_demanded_text_is_calls_or_the_answer(text: Any, most: int | None, answer: Any, allowed: bool) -> None:
    schema = calls_schema([WEATHER, TIME], most, answer)
    assert jsonschema.Draft202012Validator(schema).is_valid(text) == allowed


def test_a_template_finds_all_that_it_may_read_and_nothing_that_it_does_not_know() -> None:
    nothing = {"type": "object", "properties": {}}
    assert TIME.for_template() == {
        "type": "function",
        "function": {"name": "time", "description": "", "parameters": nothing},
    }
    assert tool(name="f", parameters={"type": "object"}).for_template()["function"]["parameters"] == nothing
    assert WEATHER.for_template()["function"] == {
        "name": "weather",
        "description": "",
        "parameters": PLACE,
        "strict": True,
    }
