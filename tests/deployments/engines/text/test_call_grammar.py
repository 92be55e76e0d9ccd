"""Which texts the grammar of strict calls allows, in each form; and that a model with random weights keeps to it."""

import json
import re
from pathlib import Path
from typing import Any

import llguidance
import pytest

from deployments.contract.chat import ChatOptions, Message, ToolCallFormat
from deployments.contract.errors import InvalidRequest
from deployments.contract.types import SamplingOptions
from deployments.engines.text.call_grammar import strict_calls
from tests.support.text_models import Listener, byte_level_tokenizer, load, load_paged, save_chat_model

PLACE = {
    "type": "object",
    "properties": {"place": {"$ref": "#/$defs/place"}, "days": {"type": "integer"}},
    "required": ["place"],
    "additionalProperties": False,
    "$defs": {"place": {"enum": ["Rome", "Oslo"]}},
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "parameters": PLACE, "strict": True}},
    {"type": "function", "function": {"name": "free", "parameters": {"required": ["x"]}}},
]
RIGHT = '{"name": "weather", "arguments": {"place": "Rome", "days": 2}}'
WRONG = '{"name": "weather", "arguments": {"place": "Bonn"}}'
LOOSE = '{"name": "free", "arguments": {"anything": [1, null]}}'
PARAMETERS = RIGHT.replace("arguments", "parameters")
OTHER_NAME = RIGHT.replace("weather", "climate")


def allows(grammar: str, text: str, special: list[str]) -> bool:
    """Whether the grammar allows this whole text."""
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    known = llguidance.LLTokenizer(tokenizer.backend_tokenizer.to_str(), n_vocab=len(tokenizer))
    matcher = llguidance.LLMatcher(known, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    ids = tokenizer.encode(text, add_special_tokens=False)
    return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())


@pytest.mark.parametrize("is_special", [True, False], ids=["special", "text"])
@pytest.mark.parametrize(
    ("form", "mark", "allowed", "refused"),
    [
        (
            "hermes",
            "<tool_call>",
            [
                "No call.",
                f"I look.\n<tool_call>\n{RIGHT}\n</tool_call>",
                f"<tool_call>{RIGHT}</tool_call>\n<tool_call>{LOOSE}</tool_call> and more",
            ],
            [f"<tool_call>\n{WRONG}\n</tool_call>", f"<tool_call>{OTHER_NAME}</tool_call>", f"<tool_call>{RIGHT}"],
        ),
        (
            "mistral",
            "[TOOL_CALLS]",
            ["No call, [1].", f"[TOOL_CALLS][{RIGHT}]", f"So: [TOOL_CALLS] [{RIGHT}, {LOOSE}]"],
            [f"[TOOL_CALLS][{WRONG}]", f"[TOOL_CALLS][{RIGHT}", "[TOOL_CALLS][]"],
        ),
        (
            "llama",
            "<|python_tag|>",
            ["No call.", PARAMETERS, f"<|python_tag|>{PARAMETERS}; {PARAMETERS}"],
            [RIGHT, PARAMETERS.replace("Rome", "Bonn"), PARAMETERS + " then"],
        ),
        (
            "json",
            "",
            ["", "No call.", "\n No {call}.", RIGHT, f"[{LOOSE}, {RIGHT}]"],
            [WRONG, f"[{RIGHT}", f"[{WRONG}]", RIGHT + " then"],
        ),
    ],
)
def test_calls_keep_to_the_schemas(
    form: ToolCallFormat, mark: str, allowed: list[str], refused: list[str], is_special: bool
) -> None:
    special = [mark] if mark and is_special else []
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    grammar = strict_calls(TOOLS, form, {mark: tokenizer.get_vocab()[mark] for mark in special})
    assert grammar is not None
    assert [text for text in allowed if not allows(grammar, text, special)] == []
    assert [text for text in refused if allows(grammar, text, special)] == []


def test_nothing_is_held_where_no_function_is_strict_or_arguments_are_no_json() -> None:
    assert strict_calls(TOOLS[1:], "hermes", {}) is None
    assert strict_calls(None, "hermes", {}) is None
    assert strict_calls(TOOLS, "xml", {}) is None


@pytest.mark.compiles
def test_a_model_that_knows_no_json_calls_by_the_schema(tmp_path: Path) -> None:
    engine = load(
        save_chat_model(tmp_path, "{{ messages[0].content }}{{ '<tool_call>' + tools if never }}", ["<tool_call>"])
    )
    question = [Message(role="user", content="a")]
    schema = {"type": "object", "properties": {"n": {"enum": [3, 4]}}, "required": ["n"], "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}
    prompt, markup, calls = engine.chat(question, ChatOptions(tools=[tool]))
    [begins] = engine._tokenizer.added_tokens(["<tool_call>"]).values()
    listener = Listener()
    engine.submit(prompt, 90, SamplingOptions(logit_bias={begins: 100.0}), listener, markup=markup, calls=calls)
    listener.finished()
    written = re.findall(r"<tool_call>(.*?)</tool_call>", listener.text, re.DOTALL)
    assert written
    for call in map(json.loads, written):
        assert call in [{"name": "f", "arguments": {"n": n}} for n in (3, 4)]
    broken = {"type": "function", "function": {"name": "f", "parameters": {"type": "poem"}, "strict": True}}
    calls = engine.chat(question, ChatOptions(tools=[broken])).calls
    with pytest.raises(InvalidRequest, match="schema cannot be followed"):
        engine.submit(prompt, 8, SamplingOptions(), listener, markup=markup, calls=calls)
    engine.close()


def test_the_template_does_not_see_strict(tmp_path: Path) -> None:
    engine = load_paged(save_chat_model(tmp_path, "{{ tools | tojson }}{{ messages[0].content }}"))
    question = [Message(role="user", content="a")]
    loose = [{"type": "function", "function": {"name": "weather", "parameters": PLACE}}]
    assert (
        engine.chat(question, ChatOptions(tools=TOOLS[:1])).ids == engine.chat(question, ChatOptions(tools=loose)).ids
    )
    engine.close()
