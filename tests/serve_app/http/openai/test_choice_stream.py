"""The chunks of one choice: nothing that may still become a call, log-probabilities with their text."""

from typing import Any

from deployments.contract.chat import Markup
from deployments.contract.chunk import Chunk
from deployments.contract.types import TextGenerationResult
from serve_app.http.openai.choice_stream import ChoiceStream
from serve_app.http.openai.parsing.output import OutputParser
from serve_app.http.openai.parsing.tool_calls import FORMATS, ToolCallParser
from serve_app.http.openai.responses import ChatBuilder
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


class _AnyId:
    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and len(other) == 9

    __hash__ = None  # type: ignore[assignment]


ANY_ID = _AnyId()
