"""What a body of OpenAI's means as TextGeneration requests, and what is refused by its name."""

from typing import Any

import pytest

from deployments.contract.errors import InvalidRequest
from serve_app.http.openai.errors import InvalidField
from serve_app.http.openai.requests import WHOLE_CONTEXT, ChatBody, CompletionBody, body_of

USER: Any = [{"role": "user", "content": "hi"}]
PROMPT: dict[str, Any] = {"model": "m", "prompt": "p"}
CHAT: dict[str, Any] = {"model": "m", "messages": USER}


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("n", 0, "n"),
        ("n", 129, "n"),
        ("temperature", 2.1, "temperature"),
        ("temperature", "1", "temperature"),
        ("top_p", 0, "top_p"),
        ("stop", ["x"] * 17, "stop"),
        ("presence_penalty", 0.5, "presence_penalty"),
        ("frequency_penalty", -1, "frequency_penalty"),
        ("logit_bias", {"5": 1}, "logit_bias"),
        ("tools", [{"type": "function"}], "tools"),
        ("modalities", ["audio"], "modalities"),
        ("response_format", {"type": "xml"}, "response_format.type"),
        ("response_format", {"type": "json_schema"}, "response_format"),
        ("top_logprobs", 2, None),
        ("stream_options", {"include_usage": True}, None),
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


@pytest.mark.parametrize(
    "fields",
    [
        {"best_of": 2},
        {"suffix": "x"},
        {"prompt": []},
        {"prompt": ["a", 1]},
        {"prompt": [True]},
        {"prompt": [[]]},
        {"prompt": [2**32]},
        {"prompt": "\ud800"},
        {"prompt": ["\ud800"]},
        {"prompt": [1], "echo": True},
        {"echo": True, "logprobs": 1},
        {"prompt": ["a"] * 65, "n": 2},
        {"max_tokens": -1},
        {"messages": USER},
    ],
)
def test_an_unsupported_completion_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidField):
        body_of(CompletionBody, PROMPT | fields)


def test_a_body_that_is_no_object_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="expected a JSON object"):
        body_of(CompletionBody, [])
    with pytest.raises(InvalidRequest, match="Missing required parameter: 'model'"):
        body_of(CompletionBody, {"prompt": "p"})


def test_a_completion_has_16_tokens_and_a_chat_the_whole_context_unless_they_say_otherwise() -> None:
    assert [request.max_tokens for request in body_of(CompletionBody, PROMPT).requests()] == [16]
    assert [request.max_tokens for request in body_of(ChatBody, CHAT).requests()] == [WHOLE_CONTEXT]
    both = body_of(ChatBody, CHAT | {"max_tokens": 3, "max_completion_tokens": 4})
    assert [request.max_tokens for request in both.requests()] == [4]


def test_each_choice_has_its_own_seed_and_the_first_one_the_given_seed() -> None:
    seeds = [request.seed for request in body_of(CompletionBody, PROMPT | {"n": 3, "seed": 5}).requests()]
    assert seeds[0] == 5
    assert len(set(seeds)) == 3
    assert [request.seed for request in body_of(CompletionBody, PROMPT | {"n": 3}).requests()] == [None] * 3


def test_echo_puts_its_prompt_before_each_choice() -> None:
    body = body_of(CompletionBody, PROMPT | {"prompt": ["a", "b"], "n": 2, "echo": True})
    assert body.echoes() == ["a", "a", "b", "b"]
