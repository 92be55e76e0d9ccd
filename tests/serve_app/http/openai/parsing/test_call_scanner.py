"""A call is read while it is written."""

import pytest

from serve_app.http.openai.parsing.call_scanner import CallScanner


@pytest.mark.parametrize(
    ("text", "name", "arguments", "rest"),
    [
        ('{"name": "f", "arguments": {"a": "}\\"{"}} tail', "f", '{"a": "}\\"{"}', " tail"),
        ('{"id": {"name": "x"}, "parameters": {"a": []}, "name": "f"}', "f", '{"a": []}', ""),
        ('{"name": "f"},', "f", "{}", ","),
        ('{"name": "f", "arguments": null}', "f", "{}", ""),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', "f", '{"a": 1}', ""),
        ('{"name": 5, "arguments": {}}', None, "", ""),
        ('{"\\u006eame": "f\\u00e9", "arguments": [1]}', "f\u00e9", "[1]", ""),
        ("{}", None, "", ""),
    ],
)
def test_a_call_is_its_name_and_its_arguments(text: str, name: str | None, arguments: str, rest: str) -> None:
    whole, piecewise = CallScanner(), CallScanner()
    assert whole.feed(text) == rest
    assert (whole.name, whole.take(), whole.take()) == (name, arguments, "")
    taken = ""
    for character in text[: len(text) - len(rest)]:
        assert piecewise.feed(character) == ""
        taken += piecewise.take()
    assert (piecewise.name, taken, piecewise.ended) == (name, arguments, True)


def test_the_arguments_of_a_known_name_are_the_object_itself() -> None:
    scanner = CallScanner("f")
    assert scanner.take() == ""
    assert scanner.feed('{"name": 1,') == ""
    assert scanner.take() == '{"name": 1,'
    assert scanner.feed(' "b": {}} tail') == " tail"
    assert scanner.take() == ' "b": {}}'
