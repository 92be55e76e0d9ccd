"""OpenAI's API in one process, called with OpenAI's own client: what reaches the runtime, and what comes back."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from deployments.contract.chat import Message
from deployments.contract.errors import (
    InvalidImage,
    ModelNotFound,
    Overloaded,
    PromptTooLong,
    ServingError,
    Unavailable,
)
from deployments.contract.types import InferRequest, TextGeneration
from deployments.replica.calls import Reply
from tests.support.http_runtimes import FakeRuntime, saying_hey, status
from tests.support.until import until


@pytest.fixture
def runtime() -> FakeRuntime:
    runtime = FakeRuntime(saying_hey())
    runtime.statuses = [status("team/m", "text_generation", [1, 2]), status("i", "image_classification")]
    return runtime


USER: Any = [{"role": "user", "content": "hi"}]


async def test_a_completion(client: AsyncOpenAI, runtime: FakeRuntime) -> None:
    answer = await client.completions.create(model="m", prompt="p")
    assert (answer.object, answer.model) == ("text_completion", "m")
    assert answer.id.startswith("cmpl-")
    (choice,) = answer.choices
    assert (choice.index, choice.text, choice.finish_reason, choice.logprobs) == (0, "hey", "stop", None)
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 2, 5)
    assert runtime.texts == [TextGeneration(model_id="m", prompt="p", max_tokens=16, control_tokens=True)]
    assert runtime.left_open == [{"temperature": 1.0, "max_tokens": 16}]


async def test_a_chat(client: AsyncOpenAI, runtime: FakeRuntime) -> None:
    parts: Any = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    earlier: Any = {"role": "assistant", "content": None, "refusal": None, "tool_calls": None, "annotations": []}
    messages: Any = [{"role": "developer", "content": "s"}, {"role": "user", "content": parts}, earlier]
    answer = await client.chat.completions.create(model="m", messages=messages, temperature=0, max_completion_tokens=7)
    assert answer.object == "chat.completion"
    assert (answer.choices[0].message.role, answer.choices[0].message.content) == ("assistant", "hey")
    roles = [("system", "s"), ("user", "ab"), ("assistant", "")]
    assert runtime.texts == [
        TextGeneration(
            model_id="m",
            prompt="",
            max_tokens=7,
            temperature=0,
            markup=True,
            messages=[Message(role=role, content=content) for role, content in roles],  # type: ignore[arg-type]
        )
    ]


async def test_every_sampling_field_reaches_the_engine(client: AsyncOpenAI, runtime: FakeRuntime) -> None:
    schema: Any = {"type": "object", "properties": {"a": {"type": "integer"}}}
    await client.chat.completions.create(
        model="m",
        messages=USER,
        top_p=0.5,
        stop=["x", "y"],
        seed=-2,
        logprobs=True,
        top_logprobs=2,
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}},
        user="someone",
        store=False,
        extra_body={"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1},
    )
    (asked,) = runtime.texts
    assert (asked.temperature, asked.top_p, asked.top_k, asked.min_p) == (None, 0.5, 3, 0.1)
    assert (asked.repetition_penalty, asked.stop, asked.seed) == (1.1, ["x", "y"], 2**64 - 2)
    assert (asked.logprobs, asked.json_schema) == (2, schema)
    await client.chat.completions.create(model="m", messages=USER, response_format={"type": "json_object"})
    assert runtime.texts[-1].json_schema == {"type": "object"}
    assert runtime.texts[-1].max_tokens == 2**32 - 1


@pytest.mark.parametrize(
    ("prompt", "meant"),
    [
        (["a", "b"], [("a", None), ("b", None)]),
        ([1, 2], [("", [1, 2])]),
        ([[1], [2, 3]], [("", [1]), ("", [2, 3])]),
    ],
)
async def test_prompts_of_every_kind(client: AsyncOpenAI, runtime: FakeRuntime, prompt: Any, meant: Any) -> None:
    answer = await client.completions.create(model="m", prompt=prompt, n=2, seed=5)
    assert [choice.index for choice in answer.choices] == list(range(2 * len(meant)))
    assert [(asked.prompt, asked.prompt_ids) for asked in runtime.texts] == [one for one in meant for _ in range(2)]
    assert [asked.seed == 5 for asked in runtime.texts] == [True, False] * len(meant)
    assert answer.usage
    assert answer.usage.prompt_tokens == 3 * len(meant)
    assert answer.usage.completion_tokens == 2 * len(answer.choices)


async def test_log_probabilities(client: AsyncOpenAI) -> None:
    completion = await client.completions.create(model="m", prompt="p", logprobs=1)
    logprobs = completion.choices[0].logprobs
    assert logprobs
    assert (logprobs.tokens, logprobs.token_logprobs, logprobs.text_offset) == (["he", "y"], [-0.5, -1.5], [0, 2])
    assert logprobs.top_logprobs == [{"hi": -0.4, "he": -0.5}, {"y": -1.5}]
    chat = await client.chat.completions.create(model="m", messages=USER, logprobs=True, top_logprobs=1)
    assert chat.choices[0].logprobs
    first, second = chat.choices[0].logprobs.content or []
    assert (first.token, first.logprob, first.bytes, first.top_logprobs[0].token) == ("he", -0.5, [104, 101], "hi")
    assert second.token == "y"


async def test_a_chat_in_chunks(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="m", messages=USER, stream=True, logprobs=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    *texts, last = chunks
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    deltas = [chunk.choices[0].delta for chunk in texts]
    assert [(delta.role, delta.content) for delta in deltas] == [
        ("assistant", ""),
        (None, "he"),
        (None, "y"),
        (None, None),
    ]
    assert [chunk.choices[0].finish_reason for chunk in texts] == [None, None, None, "stop"]
    assert [chunk.choices[0].logprobs is not None for chunk in texts] == [False, True, True, False]
    assert all(chunk.usage is None for chunk in texts)
    assert (last.choices, last.usage and last.usage.total_tokens) == ([], 5)


async def test_a_completion_in_chunks_of_several_choices(client: AsyncOpenAI) -> None:
    stream = await client.completions.create(model="m", prompt=["a", "b"], n=2, stream=True, echo=True)
    texts, reasons = [""] * 4, [""] * 4
    async for chunk in stream:
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        reasons[choice.index] += choice.finish_reason or ""
    assert texts == ["ahey", "ahey", "bhey", "bhey"]
    assert reasons == ["stop"] * 4


async def test_a_stream_is_data_lines_closed_by_done(http: httpx2.AsyncClient) -> None:
    reply = await http.post("/v1/completions", json={"model": "m", "prompt": "p", "stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = reply.text.split("\n\n")
    assert all(event.startswith("data: {") for event in events)
    assert (done, rest) == ("data: [DONE]", "")
    assert '"usage"' not in reply.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failure", "kind", "code", "again"),
    [
        (ModelNotFound("no"), openai.NotFoundError, "model_not_found", "false"),
        (PromptTooLong("no"), openai.BadRequestError, "context_length_exceeded", "false"),
        (Overloaded("no"), openai.RateLimitError, "overloaded", "true"),
        (InvalidImage("no"), openai.UnprocessableEntityError, "invalid_image", "false"),
        (Unavailable("no"), openai.InternalServerError, "unavailable", "true"),
    ],
)
@pytest.mark.parametrize("n", [1, 3])
async def test_failures_are_the_clients_typed_exceptions(
    client: AsyncOpenAI,
    runtime: FakeRuntime,
    stream: bool,
    failure: ServingError,
    kind: Any,
    code: str,
    again: str,
    n: int,
) -> None:
    failure.retry_after_ms = 1200
    runtime.script = saying_hey(fails_before=failure)
    with pytest.raises(kind) as raised:
        await client.chat.completions.create(model="m", messages=USER, stream=stream, n=n)
    assert (raised.value.code, raised.value.body["message"]) == (code, "no")
    headers = raised.value.response.headers
    assert (headers["retry-after"], headers["retry-after-ms"], headers["x-should-retry"]) == ("2", "1200", again)
    assert runtime.under_way == 0


@pytest.mark.parametrize("n", [1, 3])
async def test_an_error_after_the_first_text_is_raised_after_that_text(
    client: AsyncOpenAI, runtime: FakeRuntime, n: int
) -> None:
    runtime.script = saying_hey(fails_after=Unavailable("lost"))
    stream = await client.completions.create(model="m", prompt="p", stream=True, n=n)
    assert (await anext(stream)).choices[0].text == "he"
    with pytest.raises(openai.APIError, match="lost"):
        _ = [chunk async for chunk in stream]
    assert runtime.under_way == 0


async def test_neutral_values_of_unsupported_fields_are_accepted(client: AsyncOpenAI) -> None:
    await client.chat.completions.create(
        model="m", messages=USER, n=1, presence_penalty=0, frequency_penalty=0.0, logit_bias={}, tools=[], stop=None
    )
    await client.completions.create(model="m", prompt="p", best_of=1, suffix=None, user="u", max_tokens=0)


async def test_only_text_models_are_listed(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["team/m"]
    for model_id in ("team/m", "team/m@1"):
        assert (await client.models.retrieve(model_id)).id == model_id
    for model_id in ("i", "m", "team/m@3"):
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve(model_id)


async def test_a_models_context_is_listed_where_it_is_known(http: httpx2.AsyncClient, runtime: FakeRuntime) -> None:
    long = status("long", "text_generation").model_copy(update={"context": 4096})
    runtime.statuses = [long, status("silent", "text_generation")]
    listed = (await http.get("/v1/models")).json()["data"]
    assert [model.get("max_model_len") for model in listed] == [4096, None]
    assert (await http.get("/v1/models/long")).json()["max_model_len"] == 4096


async def test_an_error_cancels_the_other_choices(client: AsyncOpenAI, runtime: FakeRuntime) -> None:
    async def stuck(request: InferRequest) -> AsyncGenerator[Reply, None]:
        assert isinstance(request, TextGeneration)
        if request.seed == 5:
            raise Unavailable("lost")
        await asyncio.Event().wait()
        yield  # type: ignore[misc]  # which makes it a generator

    runtime.script = stuck
    with pytest.raises(openai.InternalServerError):
        await client.completions.create(model="m", prompt="p", n=4, seed=5)
    await until(lambda: runtime.under_way == 0)


@pytest.mark.parametrize(
    ("method", "path", "status_code"),
    [("GET", "/v1", 404), ("POST", "/v1/nope", 404), ("GET", "/v1/completions", 405), ("DELETE", "/v1/models/m", 405)],
)
async def test_a_path_without_a_route_is_an_error_in_openais_shape(
    http: httpx2.AsyncClient, method: str, path: str, status_code: int
) -> None:
    response = await http.request(method, path)
    assert response.status_code == status_code
    assert response.json()["error"]["type"] == "invalid_request_error"
