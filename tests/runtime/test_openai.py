"""OpenAI's client against the application on a real Ray."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import torch
from openai import AsyncOpenAI, OpenAI
from prometheus_client.parser import text_string_to_metric_families
from transformers import AutoTokenizer

from tests.runtime.test_operation import metric
from tests.support.running import Running
from tests.support.text_models import CONTEXT, PROMPTS, Reference
from tests.support.until import wait_until

CHAT = "team/nested"
USER: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "why"}]


@pytest.fixture
def client(runtime: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{runtime.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_a_completion_is_what_transformers_gives(runtime: Running, client: OpenAI) -> None:
    reference = Reference(runtime.models / "text")
    ids = reference.tokenizer(PROMPTS[0]).input_ids
    answer = client.completions.create(model="text", prompt=[PROMPTS[0]], max_tokens=16, temperature=0)
    by_ids = client.completions.create(model="text", prompt=ids, max_tokens=16, temperature=0)
    assert reference.agrees(PROMPTS[0], 16, answer.choices[0].text)
    assert by_ids.choices == answer.choices
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), 16)


def test_a_chat_is_put_into_the_models_own_template(runtime: Running, client: OpenAI) -> None:
    tokenizer = AutoTokenizer.from_pretrained(runtime.models / CHAT)
    ids = tokenizer.apply_chat_template(USER, add_generation_prompt=True, return_dict=False)
    chat = client.chat.completions.create(model=CHAT, messages=USER, max_completion_tokens=12, temperature=0)
    completion = client.completions.create(model=CHAT, prompt=ids, max_tokens=12, temperature=0)
    assert chat.choices[0].message.content == completion.choices[0].text
    assert chat.usage
    assert chat.usage.prompt_tokens == len(ids)
    whole = client.chat.completions.create(model=CHAT, messages=USER, temperature=0)
    assert whole.usage
    assert whole.choices[0].finish_reason == "stop" or whole.usage.total_tokens == CONTEXT


def test_a_stream_says_the_same_in_parts(runtime: Running, client: OpenAI) -> None:
    fields: Any = {"model": CHAT, "messages": USER, "max_tokens": 20, "temperature": 1, "seed": 7, "logprobs": True}
    whole = client.chat.completions.create(**fields)
    stream = client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True})
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.usage == whole.usage
    assert whole.choices[0].logprobs
    told = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content or []]
    assert [token.token for token in told] == [token.token for token in whole.choices[0].logprobs.content or []]


def test_a_stream_for_async_programs(runtime: Running) -> None:
    async def texts() -> list[str]:
        async with AsyncOpenAI(base_url=f"{runtime.url}/v1", api_key="none", max_retries=0) as client:
            stream = await client.completions.create(
                model="text", prompt=PROMPTS[:2], n=2, max_tokens=8, temperature=0, stream=True
            )
            texts = [""] * 4
            async for chunk in stream:
                texts[chunk.choices[0].index] += chunk.choices[0].text
            return texts

    first, again, second, once_more = asyncio.run(texts())
    assert first == again
    assert second == once_more
    assert Reference(runtime.models / "text").agrees(PROMPTS[0], 8, first)
    assert Reference(runtime.models / "text").agrees(PROMPTS[1], 8, second)


def test_a_seed_gives_the_same_choices_again_and_its_first_is_that_of_one(client: OpenAI) -> None:
    def texts(n: int) -> list[str]:
        answer = client.completions.create(model="text", prompt="a", max_tokens=20, seed=3, n=n)
        return [choice.text for choice in answer.choices]

    three = texts(3)
    assert texts(3) == three
    assert texts(1) == three[:1]
    assert len(set(three)) == 3


def test_text_ends_before_a_stop_string(client: OpenAI) -> None:
    whole = client.completions.create(model="text", prompt="a", max_tokens=20, temperature=0).choices[0].text
    stop = whole[6:8]
    cut = client.completions.create(model="text", prompt="a", max_tokens=20, temperature=0, stop=stop).choices[0]
    assert (cut.text, cut.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_logprobs_are_those_of_the_text(client: OpenAI) -> None:
    (choice,) = client.completions.create(model="text", prompt="a", max_tokens=8, temperature=0, logprobs=2).choices
    assert choice.logprobs
    assert len(choice.logprobs.tokens or []) == 8
    for chosen, top in zip(choice.logprobs.token_logprobs or [], choice.logprobs.top_logprobs or [], strict=True):
        assert chosen == max(top.values()) <= 0  # greedy


def test_a_continuation_is_scored_as_by_the_models_own_forward(runtime: Running, client: OpenAI) -> None:
    """What lm-evaluation-harness computes of `echo` with `logprobs`."""
    reference = Reference(runtime.models / "text")
    contexts, wholes = ("the", "the quick"), ("the quick brown", "the quick fox")
    starts = [len(reference.tokenizer(text).input_ids) for text in contexts]
    ids = [reference.tokenizer(text).input_ids for text in wholes]
    answer = client.completions.create(model="text", prompt=ids, max_tokens=1, temperature=0, logprobs=1, echo=True)
    for choice, start, tokens in zip(answer.choices, starts, ids, strict=True):
        assert choice.logprobs
        scores = (choice.logprobs.token_logprobs or [])[start:-1]
        expected = reference.model(torch.tensor([tokens])).logits[0, :-1].log_softmax(-1)
        expected = expected[range(len(tokens) - 1), tokens[1:]].detach()
        assert sum(scores) == pytest.approx(float(expected[start - 1 :].sum()), abs=1e-3)
        stream = client.completions.create(
            model="text", prompt=tokens, max_tokens=1, temperature=0, logprobs=1, echo=True, stream=True
        )
        parts = [one.logprobs for chunk in stream for one in chunk.choices if one.logprobs]
        told = [value for part in parts for value in part.token_logprobs or []]
        assert told[0] is None
        assert told[1:] == pytest.approx((choice.logprobs.token_logprobs or [])[1:], abs=1e-3)


def test_a_schema_is_kept(client: OpenAI) -> None:
    schema: Any = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    answer = client.chat.completions.create(
        model=CHAT,
        messages=USER,
        seed=1,
        response_format={"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema}},
    )
    assert json.loads(answer.choices[0].message.content or "") in ({"ok": True}, {"ok": False})
    odd: Any = {"type": "json_schema", "json_schema": {"name": "odd", "schema": {"type": "no type"}}}
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=CHAT, messages=USER, response_format=odd)


def test_a_demanded_call_has_arguments_of_its_tool(client: OpenAI) -> None:
    schema: Any = {"type": "object", "properties": {"ok": {"enum": ["yes", "no"]}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    fields: Any = {"model": CHAT, "messages": USER, "tools": tools, "seed": 1, "parallel_tool_calls": False}
    choices: Any = ("required", {"type": "function", "function": {"name": "f"}})
    for choice in choices:
        whole = client.chat.completions.create(**fields, tool_choice=choice).choices[0]
        with client.chat.completions.stream(**fields, tool_choice=choice) as stream:
            streamed = stream.get_final_completion().choices[0]
        for one in (whole, streamed):
            (call,) = one.message.tool_calls or []
            assert call.type == "function"
            assert json.loads(call.function.arguments) in ({"ok": "yes"}, {"ok": "no"})
            assert (one.finish_reason, one.message.content or "", call.function.name) == ("tool_calls", "", "f")


def test_a_response_has_the_text_of_the_chat_that_it_asks_for(client: OpenAI) -> None:
    chat = client.chat.completions.create(model=CHAT, messages=USER, max_tokens=12, temperature=0).choices[0]
    fields: Any = {"model": CHAT, "input": "why", "instructions": "Be brief.", "max_output_tokens": 12}
    response = client.responses.create(**fields, temperature=0)
    assert response.output_text == chat.message.content
    events = list(client.responses.create(**fields, temperature=0, stream=True))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == response.output_text
    assert events[-1].type in ("response.completed", "response.incomplete")


def test_failures_are_typed_exceptions_with_a_request_id(runtime: Running, client: OpenAI) -> None:
    def fails(kind: type[openai.APIStatusError], **fields: Any) -> openai.APIStatusError:
        with pytest.raises(kind) as raised:
            client.chat.completions.create(**{"model": CHAT, "messages": USER} | fields)
        assert raised.value.request_id
        return raised.value

    for stream in (False, True):
        assert fails(openai.NotFoundError, model="nope", stream=stream).code == "model_not_found"
        assert "chat template" in fails(openai.BadRequestError, model="text", stream=stream).message
        assert fails(openai.BadRequestError, model="image", stream=stream).code == "wrong_family"
        long: Any = [{"role": "user", "content": "a" * 4000}]
        assert fails(openai.BadRequestError, messages=long, stream=stream).code == "context_length_exceeded"
        assert fails(openai.InternalServerError, model="broken", stream=stream).code == "model_load_failed"
        assert fails(openai.APIStatusError, model="huge", stream=stream).status_code == 507


def test_models_are_listed_and_found(client: OpenAI) -> None:
    assert {"text", CHAT, "versioned"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve(CHAT).id == CHAT
    assert client.models.retrieve("versioned@1").id == "versioned@1"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("image")


def test_when_the_client_goes_its_slot_is_free(runtime: Running, client: OpenAI) -> None:
    def now(name: str) -> float:
        return metric(httpx.get(f"{runtime.url}/metrics", timeout=30).text, f'{name}{{model="text"}}')

    def cut_short() -> bool:
        before = now("text_generated_tokens_total")
        with client.completions.create(model="text", prompt="a", max_tokens=CONTEXT, temperature=0, stream=True) as it:
            next(iter(it))
        wait_until(lambda: now("text_requests_running") == 0)
        return now("text_generated_tokens_total") - before < CONTEXT - 20

    client.completions.create(model="text", prompt="a", max_tokens=1)
    wait_until(cut_short)


def test_each_text_model_is_measured(runtime: Running, client: OpenAI) -> None:
    def text() -> str:
        return httpx.get(f"{runtime.url}/metrics", timeout=30).text

    client.completions.create(model="text", prompt="a", max_tokens=5, temperature=0)
    before = text()
    client.completions.create(model="text", prompt="a", max_tokens=5, temperature=0)
    after = text()
    for name, more in {
        "text_generated_tokens_total": 5,
        "text_prompt_tokens_total": 2,
        "text_time_to_first_token_seconds_count": 1,
        "text_inter_token_seconds_count": 4,
        "text_queue_seconds_count": 1,
    }.items():
        series = f'{name}{{model="text"}}'
        assert metric(after, series) - metric(before, series) == more, name
    assert metric(after, 'text_cache_bytes{model="text"}') >= metric(after, 'text_cache_used_bytes{model="text"}')
    assert list(text_string_to_metric_families(after))
