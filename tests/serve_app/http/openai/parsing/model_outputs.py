"""What models of each template family write when they call tools, how it may arrive, and what a parser makes of it."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from deployments.contract.chat import ToolCallFormat
from serve_app.http.openai.parsing.delta import Delta, whole_calls
from serve_app.http.openai.parsing.output import OutputParser

THINK = ("<think>", "</think>")
TOOLS: dict[str, dict[str, Any]] = {
    "weather": {"properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "at": {"type": "object"}}},
    "time": {},
}
CITY = '{"city": "Köln, \\"NRW\\" {]}"}'
OUTPUTS: list[tuple[ToolCallFormat, str, str, list[tuple[str, str]]]] = [
    # Hermes, Qwen 2.5 and 3
    ("hermes", "Hi <tool> you", "Hi <tool> you", []),
    ("hermes", f'<tool_call>\n{{"name": "weather", "arguments": {CITY}}}\n</tool_call>', "", [("weather", CITY)]),
    (
        "hermes",
        f'Let me look.\n\n<tool_call>\n{{"name": "weather", "arguments": {CITY}}}\n</tool_call>\n'
        '<tool_call>\n{"arguments": {}, "name": "time"}\n</tool_call>\nDone. ',
        "Let me look.Done. ",
        [("weather", CITY), ("time", "{}")],
    ),
    ("hermes", '<tool_call>{"name": "time"}</tool_call>', "", [("time", "{}")]),
    ("hermes", '<tool_call>{"name": "time", "arguments": null}</tool_call>', "", [("time", "{}")]),
    ("hermes", '<tool_call>{"name":"time","arguments":"{\\"a\\": 1}"}</tool_call>', "", [("time", '{"a": 1}')]),
    ("hermes", "<tool_call>\nnot JSON\n</tool_call>", "<tool_call>\nnot JSON\n</tool_call>", []),
    ("hermes", '<tool_call>\n{"city": "x"}\n</tool_call>', '<tool_call>\n{"city": "x"}\n</tool_call>', []),
    ("hermes", 'a <tool_call>\n{"nam', 'a<tool_call>\n{"nam', []),
    ("hermes", '<tool_call>\n{"name": "weather", "arguments": {"ci', "", [("weather", '{"ci')]),
    ("hermes", '{"name": "weather", "arguments": {}}', '{"name": "weather", "arguments": {}}', []),
    # Qwen 3 Coder, Qwen 3.5
    (
        "xml",
        "I look.\n<tool_call>\n<function=weather>\n<parameter=city>\n7 <b>\nKöln\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n"
        '<parameter=at>\n{"a": [1]}\n</parameter>\n</function>\n</tool_call>\n'
        "<tool_call>\n<function=time>\n</function>\n</tool_call>",
        "I look.",
        [("weather", '{"city": "7 <b>\\nKöln", "days": 3, "at": {"a": [1]}}'), ("time", "{}")],
    ),
    ("xml", "<tool_call>\nnone\n</tool_call>", "<tool_call>\nnone\n</tool_call>", []),
    ("xml", "<tool_call>\n<function=time", "<tool_call>\n<function=time", []),
    # Llama 3.1 to 3.3
    ("llama", f'{{"name": "weather", "parameters": {CITY}}}', "", [("weather", CITY)]),
    ("llama", f'<|python_tag|>{{"name": "weather", "parameters": {CITY}}}', "", [("weather", CITY)]),
    (
        "llama",
        '{"name": "time", "parameters": {}}; {"type": "function", "name": "weather", "parameters": {"a": [1, {}]}}',
        "",
        [("time", "{}"), ("weather", '{"a": [1, {}]}')],
    ),
    ("llama", '{"city": "Köln"} is an object.', '{"city": "Köln"} is an object.', []),
    ("llama", '{"name": "Ada", "parameters": {}}', '{"name": "Ada", "parameters": {}}', []),
    ("llama", ' Call {"name": "time"} yourself', ' Call {"name": "time"} yourself', []),
    # Mistral before and after its eleventh tokenizer
    (
        "mistral",
        f'[TOOL_CALLS][{{"name": "weather", "arguments": {CITY}}}, {{"name": "time", "arguments": {{}}}}]',
        "",
        [("weather", CITY), ("time", "{}")],
    ),
    ("mistral", f"I look.[TOOL_CALLS]weather[ARGS]{CITY}", "I look.", [("weather", CITY)]),
    (
        "mistral",
        f"[TOOL_CALLS]weather{CITY}[TOOL_CALLS]time[CALL_ID]abc123def[ARGS]{{}}",
        "",
        [("weather", CITY), ("time", "{}")],
    ),
    ("mistral", "[TOOL_CALLS] none of them", "[TOOL_CALLS] none of them", []),
    ("mistral", "See [1] and [TOO", "See [1] and [TOO", []),
    # Others
    ("json", f'[{{"name": "weather", "arguments": {CITY}}}]', "", [("weather", CITY)]),
    ("json", '\n{"name": "time", "parameters": {}}\n', "", [("time", "{}")]),
    ("json", '[1, 2, {"name": "time"}]', '[1, 2, {"name": "time"}]', []),
    ("json", '{"a": 1', '{"a": 1', []),
    ("json", "  ", "  ", []),
    ("json", "", "", []),
]


def pieces_of(text: str) -> Iterator[list[str]]:
    """The whole text, every way to cut it in three, and its characters."""
    yield [text]
    yield list(text)
    cuts = range(len(text) + 1)
    for first, second in combinations(cuts[:: 1 + len(text) // 60], 2):
        yield [text[:first], text[first:second], text[second:]]


def parsed(parser: OutputParser, pieces: list[str]) -> tuple[str, str, list[tuple[str, str]]]:
    delta = Delta()
    for piece in pieces:
        delta += parser.feed(piece)
    delta += parser.end()
    for call in delta.calls:
        assert (call.id is None) == (call.name is None)
    calls = whole_calls(delta.calls)
    assert len({call.id for call in calls}) == len(calls) == sum(call.id is not None for call in delta.calls)
    assert all(len(call.id) == 9 and call.id.isalnum() for call in calls)
    return delta.text, delta.reasoning, [(call.name, call.arguments) for call in calls]
