"""OpenAI's response objects. tests/serve_app/http/openai/test_routes.py reads them with OpenAI's client."""

from typing import Any

import pytest

from deployments.contract.text_generation import Alternative, PromptToken, Usage
from deployments.contract.types import TextGenerationResult
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


@pytest.mark.parametrize("echo", ["Sé", ""])
def test_echoed_log_probabilities_stand_before_those_of_the_text(echo: str) -> None:
    told = [
        PromptToken(token="S", utf8=[83], logprob=None, top=[]),
        PromptToken(token="\ufffd", utf8=[0xC3], logprob=-1.0, top=[Alternative(token="x", logprob=-0.5, utf8=[120])]),
        PromptToken(token="\ufffd", utf8=[0xA9], logprob=-2.0, top=[]),
    ]
    echoed = result("hey").model_copy(update={"prompt_logprobs": told, "logprobs": list(LOGPROBS)})
    choices: Any = CompletionBuilder("cmpl-1", 7, "m", 1, [echo]).response([echoed])["choices"]
    logprobs = choices[0]["logprobs"]
    assert choices[0]["text"] == "Séhey"  # By ids too.
    assert logprobs["token_logprobs"] == [None, -1.0, -2.0, -0.5, -1.5]
    assert logprobs["text_offset"] == [0, 1, 2, 3, 5]
    assert logprobs["top_logprobs"][:2] == [None, {"x": -0.5, "\ufffd": -1.0}]
