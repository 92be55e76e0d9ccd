"""What a body of OpenAI's means as TextGeneration requests, and what is refused by its name."""

from typing import Any

import pytest

from deployments.contract.errors import InvalidRequest
from serve_app.http.openai.errors import InvalidField
from serve_app.http.openai.fields import WHOLE_CONTEXT
from serve_app.http.openai.requests import CompletionBody, body_of

PROMPT: dict[str, Any] = {"model": "m", "prompt": "p"}


@pytest.mark.parametrize(
    "fields",
    [
        {"best_of": 2},
        {"prompt": [1], "suffix": "x"},
        {"prompt": []},
        {"prompt": ["a", 1]},
        {"prompt": [True]},
        {"prompt": [[]]},
        {"prompt": [2**32]},
        {"prompt": "\ud800"},
        {"prompt": ["\ud800"]},
        {"prompt": [1], "echo": True},
        {"prompt": ["a"] * 65, "n": 2},
        {"max_tokens": -2},
        {"max_tokens": 1.5},
        {"messages": []},
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


def test_a_completion_has_16_tokens_unless_it_says_otherwise() -> None:
    assert [request.max_tokens for request in body_of(CompletionBody, PROMPT).requests] == [16]
    assert [request.max_tokens for request in body_of(CompletionBody, PROMPT | {"max_tokens": -1}).requests] == [
        WHOLE_CONTEXT
    ]


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({"max_tokens": 100.0, "seed": 42.0, "n": 1.0, "top_k": 5.0}, {"max_tokens": 100, "seed": 42, "top_k": 5}),
        ({"presence_penalty": 1, "frequency_penalty": 0.1}, {"presence_penalty": 1.0, "frequency_penalty": 0.1}),
        ({"logit_bias": {"50256": -100}}, {"logit_bias": {50256: -100.0}}),
        ({"ignore_eos": True, "min_tokens": 7}, {"ignore_eos": True, "min_tokens": 7}),
        ({"stop_token_ids": [5, 6]}, {"stop_token_ids": [5, 6]}),
        ({"top_p": 0}, {"top_p": 1e-9}),
    ],
)
def test_what_changes_the_text_reaches_the_model(fields: dict[str, Any], meant: dict[str, Any]) -> None:
    (request,) = body_of(CompletionBody, PROMPT | fields).requests
    assert {name: getattr(request, name) for name in meant} == meant


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_a_schema_may_stand_beside_the_type(kind: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    body = body_of(CompletionBody, PROMPT | {"response_format": {"type": kind, "schema": schema}})
    assert body.requests[0].json_schema == schema
    (text,) = body_of(CompletionBody, PROMPT | {"response_format": {"type": "text"}}).requests
    assert text.json_schema is None


def test_each_choice_has_its_own_seed_and_the_first_one_the_given_seed() -> None:
    seeds = [request.seed for request in body_of(CompletionBody, PROMPT | {"n": 3, "seed": 5}).requests]
    assert seeds[0] == 5
    assert len(set(seeds)) == 3
    assert [request.seed for request in body_of(CompletionBody, PROMPT | {"n": 3}).requests] == [None] * 3


def test_echo_puts_its_prompt_before_each_choice() -> None:
    body = body_of(CompletionBody, PROMPT | {"prompt": ["a", "b"], "n": 2, "echo": True})
    assert body.echoes() == ["a", "a", "b", "b"]


def test_control_tokens_of_a_prompt_are_tokens_and_a_suffix_reaches_the_model() -> None:
    text, ids = (body_of(CompletionBody, PROMPT | {"prompt": prompt}).requests[0] for prompt in ("<s>", [1]))
    assert (text.control_tokens, ids.control_tokens) == (True, None)
    (between,) = body_of(CompletionBody, PROMPT | {"suffix": "x"}).requests
    assert (between.prompt, between.suffix) == ("p", "x")


@pytest.mark.parametrize("prompt", ["p", [1, 2]])
@pytest.mark.parametrize("stream", [False, True])
def test_echo_with_logprobs_asks_for_those_of_the_prompt(prompt: Any, stream: bool) -> None:
    asked = {"prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 1, "stream": stream}
    (request,) = body_of(CompletionBody, PROMPT | asked).requests
    assert (request.prompt_logprobs, request.logprobs, request.max_tokens) == (True, 1, 1)
    (other,) = body_of(CompletionBody, PROMPT | {"logprobs": 1}).requests
    assert other.prompt_logprobs is None
