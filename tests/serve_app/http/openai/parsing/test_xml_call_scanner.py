"""A call in the form of Qwen's coders: its values have the types of the tool's schema."""

import json
from typing import Any

import pytest

from serve_app.http.openai.parsing.xml_call_scanner import XmlCallScanner

SCHEMA = {
    "properties": {"s": {"type": "string"}, "n": {"type": ["integer", "null"]}, "o": {"type": ["string", "null"]}}
}


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("s", "7", "7"),
        ("n", "7", 7),
        ("n", "seven", "seven"),
        ("o", "null", "null"),
        ("other", "[true]", [True]),
        ("other", "a\n  b", "a\n  b"),
        ("s", "", ""),
    ],
)
def test_a_value_has_the_type_that_its_schema_says(key: str, value: str, meant: Any) -> None:
    scanner = XmlCallScanner({"f": SCHEMA})
    assert scanner.feed("<function=f") == ""
    assert scanner.feed(f">\n<parameter={key}>\n{value}\n</parameter>\n") == ""
    assert (scanner.take(), scanner.ended) == ("", False)
    assert scanner.feed("</function> tail") == " tail"
    assert json.loads(scanner.take()) == {key: meant}
    assert (scanner.name, scanner.take()) == ("f", "")
