"""Responses and their events as OpenAI's client reads them."""

from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from deployments.contract.chat import Markup
from deployments.contract.chunk import Chunk
from deployments.contract.errors import Overloaded, Unavailable
from deployments.contract.types import InferRequest, TextGenerationResult
from deployments.replica.calls import Reply
from tests.serve_app.http.openai.test_tool_calling import SAID, saying
from tests.support.http_runtimes import FakeRuntime, saying_hey

PARAMETERS = {"type": "object"}
TOOLS: Any = [{"type": "function", "name": name, "parameters": PARAMETERS} for name in ("weather", "time")]


class Place(BaseModel):
    city: str


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime(saying(SAID))


def output(response: Any) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for item in response.output:
        if item.type == "function_call":
            found.append((item.name, item.arguments, bool(item.call_id)))
        else:
            found.append((item.type, "".join(part.text for part in item.content)))
    return found


async def test_a_response_has_reasoning_text_and_calls_as_items(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model="m", input="hi", tools=TOOLS, instructions="Be brief.")
    assert output(response) == [
        ("reasoning", "The weather."),
        ("message", "I look."),
        ("weather", '{"city": "Köln"}', True),
        ("time", "{}", True),
    ]
    assert (response.output_text, response.status, response.instructions) == ("I look.", "completed", "Be brief.")
    assert response.usage
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (3, 2, 5)
    assert response.id.startswith("resp_")
    assert len({item.id for item in response.output}) == 4


async def test_a_stream_ends_with_the_same_response(client: AsyncOpenAI) -> None:
    async with client.responses.stream(model="m", input="hi", tools=TOOLS) as stream:
        events: list[Any] = [event async for event in stream]
        final = await stream.get_final_response()
    assert output(final) == output(await client.responses.create(model="m", input="hi", tools=TOOLS))
    kinds = [event.type for event in events]
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds[-1] == "response.completed"
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 4
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))
    deltas = {kind: "".join(e.delta for e in events if e.type == kind) for kind in kinds if kind.endswith(".delta")}
    assert deltas == {
        "response.reasoning_text.delta": "The weather.",
        "response.output_text.delta": "I look.",
        "response.function_call_arguments.delta": '{"city": "Köln"}{}',
    }


async def test_events_have_their_type_as_name(http: httpx2.AsyncClient) -> None:
    reply = await http.post("/v1/responses", json={"model": "m", "input": "hi", "stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    *events, rest = reply.text.split("\n\n")
    assert rest == ""
    for event in events:
        name, _, data = event.partition("\n")
        assert data.startswith(f'data: {{"type":"{name.removeprefix("event: ")}"')


async def test_an_answer_is_parsed_by_its_schema(client: AsyncOpenAI, runtime: FakeRuntime) -> None:
    runtime.script = saying('{"city":"Köln"}', Markup())
    response = await client.responses.parse(model="m", input="hi", text_format=Place)
    assert response.output_parsed == Place(city="Köln")
    assert (runtime.texts[-1].json_schema or {})["required"] == ["city"]


async def test_log_probabilities_come_where_they_are_included(client: AsyncOpenAI, runtime: FakeRuntime) -> None:
    runtime.script = saying_hey()
    include: Any = ["message.output_text.logprobs"]
    message: Any = (await client.responses.create(model="m", input="hi", include=include)).output[0]
    assert [one.token for one in message.content[0].logprobs] == ["he", "y"]
    stream = await client.responses.create(model="m", input="hi", include=include, stream=True)
    told = [event.logprobs async for event in stream if event.type == "response.output_text.delta"]
    assert [one.token for part in told for one in part] == ["he", "y"]


async def test_a_text_that_is_cut_is_incomplete(client: AsyncOpenAI, runtime: FakeRuntime) -> None:
    async def cut(request: InferRequest) -> AsyncGenerator[Reply, None]:
        yield Chunk("hey", 1)
        yield TextGenerationResult(generated_text="hey", finish_reason="length")

    runtime.script = cut
    response = await client.responses.create(model="m", input="hi")
    assert response.incomplete_details
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    stream = await client.responses.create(model="m", input="hi", stream=True)
    assert [event.type async for event in stream][-1] == "response.incomplete"


async def test_failures_have_a_status_before_the_first_text_and_an_event_after_it(
    client: AsyncOpenAI, runtime: FakeRuntime
) -> None:
    with pytest.raises(openai.BadRequestError, match="previous_response_id: is not supported"):
        await client.responses.create(model="m", input="hi", previous_response_id="resp_1")
    runtime.script = saying_hey(fails_before=Overloaded("no"))
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError):
            await client.responses.create(model="m", input="hi", stream=stream)
    runtime.script = saying_hey(fails_after=Unavailable("lost"))
    events: list[Any] = [event async for event in await client.responses.create(model="m", input="hi", stream=True)]
    assert (events[-1].type, events[-1].response.error.message) == ("response.failed", "lost")
