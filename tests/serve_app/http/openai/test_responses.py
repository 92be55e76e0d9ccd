"""OpenAI's response objects. tests/serve_app/http/openai/test_routes.py reads them with OpenAI's client."""

from typing import Any

import pytest

from deployments.contract.types import TextGenerationResult, Usage
from serve_app.http.openai.parsing.delta import Delta
from serve_app.http.openai.responses import ChatBuilder, CompletionBuilder, ResponseBuilder
from tests.support.http_runtimes import LOGPROBS


def result(text: str) -> TextGenerationResult:
    usage = Usage(prompt_tokens=3, completion_tokens=2)
    return TextGenerationResult(generated_text=text, finish_reason="stop", usage=usage)


def completion(choices: int = 1) -> CompletionBuilder:
    return CompletionBuilder("cmpl-1", 7, "m", choices, ["a"] * choices)


def test_each_prompt_counts_once_and_each_choice_counts() -> None:
    usage = completion(choices=2).usage([result("x"), result("y")])
    assert usage == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def test_a_completion_repeats_its_prompt_if_it_echoes() -> None:
    response = completion().response([result("b")])
    assert response["choices"] == [{"index": 0, "text": "ab", "logprobs": None, "finish_reason": "stop"}]
    assert (response["id"], response["object"], response["created"]) == ("cmpl-1", "text_completion", 7)
    assert CompletionBuilder("cmpl-1", 7, "m", 1, [""]).first_chunk(0) is None


def test_a_text_that_its_deadline_cut_has_the_finish_reason_of_one_that_is_not_complete() -> None:
    late = result("b").model_copy(update={"finish_reason": "deadline"})
    for chunk in (completion().response([late]), completion().last_chunk(0, late.finish_reason)):
        choices: Any = chunk["choices"]
        (choice,) = choices
        assert choice["finish_reason"] == "length"


@pytest.mark.parametrize("builder", [completion(), ChatBuilder("chatcmpl-1", 7, "m", 1)])
def test_the_usage_chunk_has_no_choices(builder: ResponseBuilder) -> None:
    chunk = builder.usage_chunk([result("x")])
    assert chunk["choices"] == []
    assert chunk["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_the_text_offsets_of_a_completion_count_characters() -> None:
    chunk = completion().text_chunk(0, Delta("hey"), LOGPROBS, offset=4)
    choices = chunk["choices"]
    assert isinstance(choices, list)
    assert choices[0]["logprobs"]["text_offset"] == [4, 6]
