"""What a request for a response means as a chat, and what is refused by its name."""

from typing import Any

import pytest

from serve_app.http.openai.errors import InvalidField
from serve_app.http.openai.requests import body_of
from serve_app.http.openai.response_body import ResponseBody

ASK: dict[str, Any] = {"model": "m", "input": "hi"}
PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
FUNCTION = {"name": "f", "description": "d", "parameters": PARAMETERS}
SAID = {"type": "output_text", "text": "I look.", "annotations": []}
TURNS: list[dict[str, Any]] = [
    {"role": "developer", "content": [{"type": "input_text", "text": "Be "}, {"type": "input_text", "text": "brief."}]},
    {"type": "message", "role": "user", "content": "weather?"},
    {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
    {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [SAID]},
    {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}", "status": "completed"},
    {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "12"},
    {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "13"}]},
    {"role": "assistant", "content": "12 and 13."},
    {"role": "user", "content": "why?"},
]


def asked(**fields: Any) -> Any:
    (request,) = body_of(ResponseBody, ASK | fields).requests
    return request


def test_text_and_instructions_are_a_chat() -> None:
    request = asked(instructions="Be brief.", max_output_tokens=9, temperature=0, top_p=0.5, top_k=3)
    assert [(message.role, message.content) for message in request.messages] == [
        ("system", "Be brief."),
        ("user", "hi"),
    ]
    assert (request.max_tokens, request.temperature, request.top_p, request.top_k) == (9, 0, 0.5, 3)
    assert request.markup


def test_items_of_earlier_responses_are_the_turns_of_a_chat() -> None:
    messages = asked(input=TURNS).messages
    assert [(message.role, message.content, message.name) for message in messages] == [
        ("system", "Be brief.", None),
        ("user", "weather?", None),
        ("assistant", "I look.", None),
        ("tool", "12", "f"),
        ("tool", "13", "g"),
        ("assistant", "12 and 13.", None),
        ("user", "why?", None),
    ]
    assert [call.function.name for call in messages[2].tool_calls] == ["f", "g"]
    assert messages[2].reasoning_content == "Hm."


def test_tools_and_formats_reach_the_model() -> None:
    tools = [{"type": "function", "strict": True, **FUNCTION}]
    assert asked(tools=tools).tools == [{"type": "function", "function": FUNCTION | {"strict": True}}]
    assert asked(tools=tools, tool_choice={"type": "function", "name": "f"}).json_schema == PARAMETERS
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    form = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    assert asked(text={"format": form, "verbosity": "medium"}).json_schema == schema
    assert asked(text={"format": {"type": "text"}}).json_schema is None
    assert asked(reasoning={"effort": "high", "summary": "auto"}).chat_template_kwargs == {"reasoning_effort": "high"}
    assert asked(include=["message.output_text.logprobs"], top_logprobs=2).logprobs == 2
    assert asked(include=["reasoning.encrypted_content"]).logprobs is None


def test_what_asks_for_nothing_passes() -> None:
    hints: dict[str, Any] = {"store": True, "metadata": {"a": "b"}, "user": "u", "truncation": "disabled"}
    hints |= {"previous_response_id": None, "background": False, "tool_choice": "auto", "tools": [], "include": []}
    assert asked(**hints) == asked()
    assert body_of(ResponseBody, ASK | hints).echo("resp_1", 7)["metadata"] == {"a": "b"}


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("previous_response_id", "resp_1", "previous_response_id"),
        ("conversation", "conv_1", "conversation"),
        ("background", True, "background"),
        ("truncation", "auto", "truncation"),
        ("max_tool_calls", 3, "max_tool_calls"),
        ("tools", [{"type": "web_search"}], "tools.0.type"),
        ("tools", [{"type": "function", "name": "no name"}], "tools.0.name"),
        ("tool_choice", "required", None),
        ("text", {"verbosity": "low"}, "text.verbosity"),
        ("text", {"format": {"type": "json_schema", "name": "n"}}, None),
        ("include", ["file_search_call.results"], "include.0"),
        ("input", [], "input"),
        ("input", [{"type": "item_reference", "id": "msg_1"}], "input.0"),
        ("input", [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}], "input.0.content.0.type"),
        ("nonsense", 1, "nonsense"),
    ],
)
def test_what_is_not_supported_is_refused_by_its_name(field: str, value: object, param: str | None) -> None:
    with pytest.raises(InvalidField) as refused:
        body_of(ResponseBody, ASK | {field: value})
    assert refused.value.param == param
