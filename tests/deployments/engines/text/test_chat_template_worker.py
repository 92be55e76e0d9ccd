"""What of a request reaches a chat template, and in which form."""

import json
from typing import Any

import pytest

from deployments.contract.chat import ChatOptions, Function, Message, ToolCall
from deployments.contract.errors import InvalidRequest
from tests.deployments.engines.text.test_chat_template import PLAIN, QUESTION, renderer_of


def test_variables_of_a_request_reach_the_template_and_nothing_that_it_does_not_bound() -> None:
    source = "{% if enable_thinking is defined and not enable_thinking %}no{% endif %}{{ note }}"
    with renderer_of(source) as renderer:
        options = ChatOptions(chat_template_kwargs={"enable_thinking": False, "note": "<s>", "unknown": [1]})
        assert [part for part in renderer.render(QUESTION, options) if part.isprintable()] == list("no<s>")
        assert "<s>" in renderer.render(QUESTION, options)
        assert renderer.render(QUESTION, options) != "no<s>"  # The control token is marked: it stays text.
        assert renderer.render(QUESTION, PLAIN) == ""
    with (
        renderer_of("{% for a in range(n) %}{% endfor %}") as renderer,
        pytest.raises(InvalidRequest, match=r"fails \(OverflowError\)"),
    ):
        renderer.render(QUESTION, ChatOptions(chat_template_kwargs={"n": 1_000_000}))
    for name in ("messages", "tools", "chat_template", "add_generation_prompt"):
        with pytest.raises(ValueError, match=f"{name} is no variable"):
            ChatOptions(chat_template_kwargs={name: 1})


def test_a_prompt_need_not_begin_the_assistants_turn() -> None:
    with renderer_of("{{ messages[0].content }}{% if add_generation_prompt %} A:{% endif %}") as renderer:
        assert renderer.render(QUESTION, ChatOptions(add_generation_prompt=False)) == "why"
        assert renderer.render(QUESTION, PLAIN) == "why A:"


def test_a_template_gets_the_tools_and_the_calls_with_their_arguments_as_objects() -> None:
    tools: list[dict[str, Any]] = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    call = ToolCall(id="1", function=Function(name="f", arguments='{"a": 1}'))
    broken = ToolCall(id="2", function=Function(name="f", arguments="{"))
    messages = [
        *QUESTION,
        Message(role="assistant", content="", tool_calls=[call, broken]),
        Message(role="tool", content="2", tool_call_id="1", name="f"),
    ]
    source = (
        "{{ tools | tojson }}{% for m in messages %}{% for c in m.tool_calls or [] %}[{{ c.function.arguments.a }}]"
        "{% endfor %}{{ m.tool_call_id }}{% endfor %}"
    )
    with renderer_of("no tools", source) as renderer:
        assert renderer.render(messages, ChatOptions(tools=tools)) == json.dumps(tools) + "[1][]1"
        assert renderer.render(messages, PLAIN) == "no tools"
    with renderer_of("{% for c in messages[1].tool_calls %}{{ '>' + c.function.arguments }}{% endfor %}") as renderer:
        assert renderer.render(messages, PLAIN) == '>{"a": 1}>{'


def test_a_template_that_takes_one_call_a_turn_gets_them_one_after_another() -> None:
    source = (
        "{% for m in messages %}{% if m.tool_calls %}{% if m.tool_calls|length > 1 %}"
        "{{ raise_exception('only single tool-calls') }}{% endif %}[{{ m.content }}{{ m.tool_calls[0].id }}]"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    calls = [ToolCall(id=name, function=Function(name="f", arguments="{}")) for name in "xyz"]
    results = [Message(role="tool", content=f"({name})", tool_call_id=name) for name in "zxq"]
    messages = [*QUESTION, Message(role="assistant", content="look ", tool_calls=calls), *results, *QUESTION]
    with renderer_of(source) as renderer:
        assert renderer.render(messages, PLAIN) == "why[look x](x)[y][z](z)(q)why"
    with (
        renderer_of("{{ raise_exception('no ' ~ messages|length ~ ' messages') }}") as renderer,
        pytest.raises(InvalidRequest, match="no 6 messages"),
    ):
        renderer.render(messages, PLAIN)
