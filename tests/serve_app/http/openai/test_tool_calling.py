"""Tool calling and reasoning as OpenAI's client has them: what reaches the model, and what its text becomes."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from openai import AsyncOpenAI

from deployments.contract.chat import Markup
from deployments.contract.chunk import Chunk
from deployments.contract.text_generation import Usage
from deployments.contract.types import InferRequest, TextGenerationResult
from deployments.replica.calls import Reply
from tests.support.http_runtimes import FakeRuntime, Script

QWEN = Markup(tool_calls="hermes", reasoning=("<think>", "</think>"))
SAID = (
    "<think>\nThe weather.\n</think>\n\nI look.\n"
    '<tool_call>\n{"name": "weather", "arguments": {"city": "K\u00f6ln"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "description": "now", "parameters": SCHEMA, "strict": True}},
    {"type": "function", "function": {"name": "time"}},
]
USER: Any = [{"role": "user", "content": "What is the weather in K\u00f6ln?"}]


def saying(text: str, markup: Markup | None = QWEN) -> Script:
    """In chunks of three characters."""

    async def script(request: InferRequest) -> AsyncGenerator[Reply, None]:
        for at in range(0, len(text), 3):
            yield Chunk(text[at : at + 3], at, (), markup)
        usage = Usage(prompt_tokens=3, completion_tokens=2)
        yield TextGenerationResult(generated_text=text, finish_reason="stop", usage=usage, markup=markup)

    return script


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime(saying(SAID))


async def test_a_text_with_calls_is_a_message_with_calls(client: AsyncOpenAI, runtime: FakeRuntime) -> None:
    answer = await client.chat.completions.create(model="m", messages=USER, tools=TOOLS)
    (choice,) = answer.choices
    message: Any = choice.message
    assert (choice.finish_reason, message.content, message.reasoning_content) == (
        "tool_calls",
        "I look.",
        "The weather.",
    )
    calls = [(call.type, call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls]
    assert calls == [("function", "weather", {"city": "K\u00f6ln"}), ("function", "time", {})]
    (asked,) = runtime.texts
    function = {"name": "weather", "description": "now", "parameters": SCHEMA, "strict": True}
    assert asked.tools
    assert asked.tools[0] == {"type": "function", "function": function}
    assert (asked.markup, asked.json_schema) == (True, None)


async def test_a_stream_says_the_same_in_openais_deltas(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model="m", messages=USER, tools=TOOLS) as stream:
        final = await stream.get_final_completion()
    (choice,) = final.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I look.")
    assert [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []] == [
        ("weather", '{"city": "K\u00f6ln"}'),
        ("time", "{}"),
    ]
    chunks = await client.chat.completions.create(model="m", messages=USER, tools=TOOLS, stream=True)
    deltas: list[Any] = [chunk.choices[0].delta async for chunk in chunks]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "The weather."
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    assert [(call.index, call.function.name) for call in calls if call.id] == [(0, "weather"), (1, "time")]
    assert len([call for call in calls if call.index == 0]) > 3


async def test_without_tools_only_reasoning_is_split(client: AsyncOpenAI, runtime: FakeRuntime) -> None:
    for choice in ("none", None):
        fields: Any = {"tools": TOOLS, "tool_choice": choice} if choice else {}
        message: Any = (await client.chat.completions.create(model="m", messages=USER, **fields)).choices[0].message
        assert message.content == SAID.partition("</think>\n\n")[2]
        assert (message.reasoning_content, message.tool_calls, runtime.texts[-1].tools) == ("The weather.", None, None)
    runtime.script = saying(SAID, markup=None)
    assert (await client.chat.completions.create(model="m", messages=USER)).choices[0].message.content == SAID


async def test_a_named_tool_is_called_with_arguments_of_its_schema(client: AsyncOpenAI, runtime: FakeRuntime) -> None:
    runtime.script = saying(
        'Hm.</think>{"city":"K\u00f6ln"}', Markup(reasoning=("<think>", "</think>"), in_reasoning=True)
    )
    named: Any = {"type": "function", "function": {"name": "weather"}}
    answer = await client.chat.completions.create(model="m", messages=USER, tools=TOOLS, tool_choice=named)
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("weather", '{"city":"K\u00f6ln"}')
    assert runtime.texts[-1].json_schema == SCHEMA


@pytest.mark.parametrize("parallel", [True, False])
async def test_calls_are_demanded_by_a_schema(client: AsyncOpenAI, runtime: FakeRuntime, parallel: bool) -> None:
    runtime.script = saying('[{"name":"time","arguments":{}},{"name":"weather","arguments":{"city":"a"}}]')
    answer = await client.chat.completions.create(
        model="m", messages=USER, tools=TOOLS, tool_choice="required", parallel_tool_calls=parallel
    )
    assert len(answer.choices[0].message.tool_calls or []) == (2 if parallel else 1)
    schema = runtime.texts[-1].json_schema or {}
    assert (schema["type"], schema["minItems"], schema.get("maxItems")) == ("array", 1, None if parallel else 1)


async def test_an_answer_by_schema_may_be_calls_instead(client: AsyncOpenAI, runtime: FakeRuntime) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    fields: Any = {"model": "m", "messages": USER, "tools": TOOLS, "response_format": form}
    runtime.script = saying('[{"name":"time","arguments":{}}]')
    assert (await client.chat.completions.create(**fields)).choices[0].message.tool_calls
    runtime.script = saying('{"city":"a"}')
    assert (await client.chat.completions.create(**fields)).choices[0].message.content == '{"city":"a"}'
    alternatives = (runtime.texts[-1].json_schema or {})["anyOf"]
    assert [alternative["type"] for alternative in alternatives] == ["object", "array"]


async def test_calls_and_their_results_are_messages_for_the_template(client: AsyncOpenAI, runtime: FakeRuntime) -> None:
    first = (await client.chat.completions.create(model="m", messages=USER, tools=TOOLS)).choices[0].message
    calls = first.tool_calls or []
    results: Any = [{"role": "tool", "tool_call_id": call.id, "content": "12 \u00b0C"} for call in calls]
    earlier: Any = first.model_dump()
    await client.chat.completions.create(model="m", messages=[*USER, earlier, *results], tools=TOOLS)
    _, assistant, weather, time = runtime.texts[-1].messages or []
    assert assistant.reasoning_content == "The weather."
    assert [call.function.name for call in assistant.tool_calls or []] == ["weather", "time"]
    assert (weather.role, weather.name, weather.tool_call_id) == ("tool", "weather", calls[0].id)
    assert (time.name, time.content) == ("time", "12 \u00b0C")
