"""What asks for nothing passes; what this server has not is refused by its name."""

from typing import Any

import pytest

from serve_app.http.openai.errors import InvalidField
from serve_app.http.openai.fields import UNSUPPORTED, used_fields
from serve_app.http.openai.requests import CompletionBody, body_of

PROMPT: dict[str, Any] = {"model": "m", "prompt": "p"}


@pytest.mark.parametrize(
    "fields",
    [
        {"cache_prompt": True, "keep_alive": "5m", "id_slot": -1, "prediction": {"type": "content", "content": "x"}},
        {"user": "u", "metadata": {}, "store": True, "request_id": "r", "priority": 3},
        {"stream_options": {"continuous_usage_stats": True}},
        {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "suffix": "", "best_of": 1},
        {"skip_special_tokens": True, "include_stop_str_in_output": False, "length_penalty": 1.0, "bad_words": []},
        {"top_k": -1, "seed": -1, "logprobs": False, "thinking_token_budget": -1, "mirostat": 0, "typical_p": 1.0},
        {"min_p": 0, "repetition_penalty": 1.0, "stop": [], "stop_token_ids": [], "min_tokens": 0},
        {"anything": None},
    ],
)
def test_a_request_that_asks_for_nothing_by_a_field_is_the_request_without_it(fields: dict[str, Any]) -> None:
    request = body_of(CompletionBody, PROMPT | fields).requests[0]
    neutral = {"presence_penalty": None, "frequency_penalty": None, "logit_bias": None, "min_p": None}
    neutral |= {"repetition_penalty": None, "stop": None, "stop_token_ids": None, "min_tokens": None}
    assert request.greedy == body_of(CompletionBody, PROMPT).requests[0].greedy
    assert request.model_copy(update=neutral) == body_of(CompletionBody, PROMPT).requests[0]


@pytest.mark.parametrize("field", UNSUPPORTED)
def test_a_field_that_would_change_the_text_is_refused_by_its_name(field: str) -> None:
    with pytest.raises(InvalidField, match=f"^{field}: is not supported") as refused:
        body_of(CompletionBody, PROMPT | {field: "something"})
    assert refused.value.param == field


def test_values_are_compared_as_json_has_them() -> None:
    assert used_fields({"a": 2.0, "b": 2.5, "c": None, "typical_p": 1.0}, UNSUPPORTED) == {"a": 2, "b": 2.5}
    for value in ({"typical_p": True}, {"skip_special_tokens": 1}, {"skip_special_tokens": False}):
        with pytest.raises(InvalidField):
            used_fields(value, UNSUPPORTED)
