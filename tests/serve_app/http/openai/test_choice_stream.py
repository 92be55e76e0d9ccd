"""The chunks of one choice: nothing that may still become a call, log-probabilities with their text."""

from typing import Any

from deployments.contract.chat import Markup
from deployments.contract.chunk import Chunk
from deployments.contract.text_generation import Alternative, PromptToken
from deployments.contract.types import TextGenerationResult
from serve_app.http.openai.choice_stream import ChoiceStream
from serve_app.http.openai.parsing.output import OutputParser
from serve_app.http.openai.parsing.tool_calls import FORMATS, ToolCallParser
from serve_app.http.openai.responses import ChatBuilder, CompletionBuilder
from tests.support.http_runtimes import LOGPROBS


def test_what_is_held_back_comes_with_its_log_probabilities() -> None:
    def parse(markup: Markup) -> OutputParser:
        assert markup.reasoning
        return OutputParser(markup, ToolCallParser(FORMATS["hermes"], {"f": {}}))

    stream = ChoiceStream(ChatBuilder("chatcmpl-1", 7, "m", 1, parse=parse), 0)
    markup = Markup(tool_calls="hermes", reasoning=("<think>", "</think>"))

    def choices(*chunks: Any) -> list[Any]:
        return [(chunk["choices"][0]["delta"], bool(chunk["choices"][0]["logprobs"])) for chunk in chunks]

    assert choices(*stream.chunks(Chunk("<thi", 1, LOGPROBS[:1], markup))) == [
        ({"role": "assistant", "content": ""}, False)
    ]
    assert choices(*stream.chunks(Chunk("nk>a</think>", 2, LOGPROBS[1:], markup))) == [
        ({"reasoning_content": "a"}, True)
    ]
    call = {"index": 0, "id": ANY_ID, "type": "function", "function": {"name": "f", "arguments": ""}}
    assert choices(*stream.chunks(Chunk('b <tool_call>{"name": "f"', 3, (), markup))) == [
        ({"content": "b", "tool_calls": [call]}, False)
    ]
    end = list(stream.last_chunks(TextGenerationResult(generated_text="", finish_reason="stop", markup=markup)))
    assert [chunk["choices"][0]["finish_reason"] for chunk in end] == ["tool_calls"]  # type: ignore[index]


def test_an_echoed_prompt_is_the_first_chunk_and_the_chunks_together_are_the_whole() -> None:
    told = (
        PromptToken(token="S", utf8=[83], logprob=None, top=[]),
        PromptToken(token="o ", utf8=[111, 32], logprob=-1.0, top=[Alternative(token="x", logprob=-0.5, utf8=[120])]),
    )
    for echo in ("So ", ""):  # By ids too.
        builder = CompletionBuilder("cmpl-1", 7, "m", 1, [echo])
        end = TextGenerationResult(
            generated_text="hey", finish_reason="stop", prompt_logprobs=list(told), logprobs=list(LOGPROBS)
        )
        stream = ChoiceStream(builder, 0)
        replies = [Chunk("", 0, prompt_logprobs=told), Chunk("he", 1, LOGPROBS[:1]), Chunk("y", 2, LOGPROBS[1:])]
        chunks: list[Any] = [chunk for reply in replies for chunk in stream.chunks(reply)]
        choices = [chunk["choices"][0] for chunk in (*chunks, *stream.last_chunks(end))]
        whole: Any = builder.response([end])
        [expected] = whole["choices"]
        assert [choice["text"] for choice in choices] == ["So ", "he", "y", ""]
        assert expected["text"] == "So hey"
        for name, values in expected["logprobs"].items():
            assert [value for choice in choices[:-1] for value in choice["logprobs"][name] or [None]] == values
        late = list(ChoiceStream(builder, 0).last_chunks(end))
        assert [chunk["choices"][0]["text"] for chunk in late] == ["So ", ""]  # type: ignore[index]


class _AnyId:
    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and len(other) == 9

    __hash__ = None  # type: ignore[assignment]


ANY_ID = _AnyId()
