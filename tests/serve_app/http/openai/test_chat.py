"""What the body of a chat means as TextGeneration requests, and what is refused by its name."""

from typing import Any

import pytest

from serve_app.http.openai.chat import ChatBody
from serve_app.http.openai.errors import InvalidField
from serve_app.http.openai.fields import WHOLE_CONTEXT
from serve_app.http.openai.requests import body_of

USER: Any = [{"role": "user", "content": "hi"}]
CHAT: dict[str, Any] = {"model": "m", "messages": USER}


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("n", 0, "n"),
        ("n", 129, "n"),
        ("temperature", 2.1, "temperature"),
        ("temperature", "1", "temperature"),
        ("top_p", -0.1, "top_p"),
        ("presence_penalty", 2.1, "presence_penalty"),
        ("logit_bias", {"x": 1}, "logit_bias"),
        ("logit_bias", {"5": 101}, "logit_bias"),
        ("chat_template_kwargs", {"tools": []}, "chat_template_kwargs"),
        ("continue_final_message", True, None),
        ("verbosity", "low", "verbosity"),
        ("tool_choice", "required", None),
        ("stop", ["x"] * 17, "stop"),
        ("tools", [{"type": "function"}], "tools.0.function"),
        ("tools", [{"type": "custom", "custom": {"name": "f"}}], "tools.0.type"),
        ("modalities", ["audio"], "modalities"),
        ("response_format", {"type": "xml"}, "response_format.type"),
        ("response_format", {"type": "json_schema"}, "response_format"),
        ("top_logprobs", 2, None),
        ("messages", [], "messages"),
        ("messages", "hi", "messages"),
        ("messages", [{"role": "wizard", "content": ""}], "messages.0.role"),
        ("messages", [{"role": "user", "content": [{"type": "image_url"}]}], "messages.0.content"),
        ("nonsense", 1, "nonsense"),
    ],
)
def test_an_unsupported_field_is_refused_by_its_name(field: str, value: object, param: str | None) -> None:
    with pytest.raises(InvalidField) as refused:
        body_of(ChatBody, CHAT | {field: value})
    assert refused.value.param == param
    assert refused.value.message


def test_a_chat_has_the_whole_context_unless_it_says_otherwise() -> None:
    assert [request.max_tokens for request in body_of(ChatBody, CHAT).requests] == [WHOLE_CONTEXT]
    both = body_of(ChatBody, CHAT | {"max_tokens": 3, "max_completion_tokens": 4})
    assert [request.max_tokens for request in both.requests] == [4]


@pytest.mark.parametrize(
    "fields",
    [
        {"verbosity": "medium", "chat_template_kwargs": {}},
        {"logprobs": False, "top_logprobs": 0},
        {"stream_options": {}, "tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {"functions": [], "function_call": "none", "modalities": ["text"], "audio": None},
        {"echo": False, "add_special_tokens": False, "documents": [], "chat_template": None},
        {"max_tokens": -1, "max_completion_tokens": -1},
    ],
)
def test_a_chat_that_asks_for_nothing_by_a_field_is_the_chat_without_it(fields: dict[str, Any]) -> None:
    assert body_of(ChatBody, CHAT | fields).requests == body_of(ChatBody, CHAT).requests


def test_variables_reach_the_template() -> None:
    (asked,) = body_of(ChatBody, CHAT | {"chat_template_kwargs": {"enable_thinking": False}}).requests
    assert asked.chat_template_kwargs == {"enable_thinking": False}
    (none,) = body_of(ChatBody, CHAT | {"reasoning_effort": "none"}).requests
    assert none.chat_template_kwargs == {"reasoning_effort": "none", "enable_thinking": False}
    (high,) = body_of(ChatBody, CHAT | {"reasoning_effort": "high"}).requests
    assert high.chat_template_kwargs == {"reasoning_effort": "high"}


@pytest.mark.parametrize(
    ("fields", "last"),
    [
        ({"continue_final_message": True}, {}),
        ({"continue_final_message": True, "add_generation_prompt": False}, {}),
        ({}, {"prefix": True}),
    ],
)
def test_the_assistants_last_message_is_continued_where_that_is_asked_for(
    fields: dict[str, Any], last: dict[str, Any]
) -> None:
    messages = [*USER, {"role": "assistant", "content": "It"} | last]
    (asked,) = body_of(ChatBody, CHAT | {"messages": messages} | fields).requests
    assert asked.continue_final_message
    assert not asked.begins_turn
    without = [*USER, {"role": "assistant", "content": "It"}]
    (closed,) = body_of(ChatBody, CHAT | {"messages": without}).requests
    assert not closed.continue_final_message
    both = {"continue_final_message": True, "add_generation_prompt": True}
    with pytest.raises(InvalidField, match="exclude each other"):
        body_of(ChatBody, CHAT | {"messages": messages} | fields | both)
