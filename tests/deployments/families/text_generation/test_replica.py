"""The TextGeneration replica without Ray: what a request's fields mean to the engine, and what is left of one cut."""

import asyncio
import gc
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deployments.contract.errors import InvalidRequest
from deployments.contract.settings import FamilySettings
from deployments.contract.types import Chunk, Message, TextGeneration, TextGenerationResult
from deployments.engines.text.chat_template import ChatRenderer
from deployments.families.text_generation import metrics
from deployments.families.text_generation.family import TEXT_GENERATION
from deployments.families.text_generation.replica import TextGenerationReplica
from deployments.replica.calls import Call
from deployments.replica.family import model_formats
from deployments.replica.model_replica import ReplicaOptions
from tests.deployments.engines.text.test_chat_template import CHATML, save_chat_model
from tests.support.text_models import CONTEXT, PROMPTS, Reference


class Silent:
    """Ray's metrics need Ray."""

    def __init__(self, *args: object, **options: object) -> None: ...
    def inc(self, *args: object) -> None: ...
    def set(self, *args: object) -> None: ...
    def observe(self, *args: object) -> None: ...


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_chat_model(root / "m", CHATML)
    return root


@pytest.fixture
async def replica(models: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TextGenerationReplica]:
    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(metrics, kind, Silent)
    options = ReplicaOptions(TEXT_GENERATION, models, model_formats([TEXT_GENERATION]), FamilySettings())
    replica = TextGenerationReplica(options)
    yield replica
    await replica.residency.close()


async def ask(
    replica: TextGenerationReplica,
    said: list[Chunk] | None = None,
    prompt: str = "",
    max_tokens: int = 12,
    **fields: object,
) -> TextGenerationResult:
    request = TextGeneration.model_validate({"model_id": "m", "prompt": prompt, "max_tokens": max_tokens} | fields)
    model = replica.options.repository().find("m", "text_generation")
    call = Call(request, "r", 60, model, said is not None, "c")
    answer = await replica.infer(call, None if said is None else said.append)
    assert isinstance(answer, TextGenerationResult)
    return answer


async def test_a_stream_and_an_answer_at_once_are_the_same(replica: TextGenerationReplica, models: Path) -> None:
    said: list[Chunk] = []
    streamed = await ask(replica, said, PROMPTS[3], logprobs=2)
    whole = await ask(replica, None, PROMPTS[3], logprobs=2)
    assert streamed.model_copy(update={"logprobs": None}) == whole.model_copy(update={"logprobs": None})
    assert "".join(chunk.text for chunk in said) == whole.generated_text
    assert [logprob for chunk in said for logprob in chunk.logprobs] == streamed.logprobs
    # The second time the prompt's beginning is there already, computed in another batch.
    for first, second in zip(streamed.logprobs or [], whole.logprobs or [], strict=True):
        assert (first.utf8, len(first.top)) == (second.utf8, len(second.top))
        assert first.logprob == pytest.approx(second.logprob, abs=1e-4)
    assert Reference(models / "m").agrees(PROMPTS[3], 12, whole.generated_text)
    assert whole.logprobs
    assert all(len(logprob.top) == 2 and logprob.logprob <= 0 for logprob in whole.logprobs)


async def test_messages_and_token_ids_stand_in_place_of_a_prompt(replica: TextGenerationReplica, models: Path) -> None:
    tokenizer = Reference(models / "m").tokenizer
    messages = [Message(role="user", content="why </s>")]
    ids = tokenizer.apply_chat_template(
        [message.model_dump() for message in messages],
        add_generation_prompt=True,
        return_dict=False,
        sanitize_control_tokens=True,
    )
    chat = await ask(replica, messages=messages)
    assert chat == await ask(replica, prompt_ids=ids)
    assert chat.usage
    assert chat.usage.prompt_tokens == len(ids)
    prompt_ids = tokenizer(PROMPTS[0]).input_ids
    assert await ask(replica, prompt_ids=prompt_ids) == await ask(replica, prompt=PROMPTS[0])


async def test_a_schema_is_kept_and_an_odd_one_refused(replica: TextGenerationReplica) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    answer = await ask(replica, prompt="a", max_tokens=CONTEXT, temperature=1.0, seed=1, json_schema=schema)
    assert json.loads(answer.generated_text) in ({"ok": True}, {"ok": False})
    with pytest.raises(InvalidRequest):
        await ask(replica, prompt="a", json_schema={"type": "no type"})


async def test_chats_that_take_long_do_not_hold_up_prompts(
    replica: TextGenerationReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: the loop's threads are few."""
    await ask(replica, prompt="a", max_tokens=1)
    rendered = threading.Event()
    submit = replica._submit
    begun = 0

    async def counted(*request: Any) -> Any:
        nonlocal begun
        begun += 1
        return await submit(*request)

    def slowly(renderer: ChatRenderer, messages: object) -> str:
        assert rendered.wait(60)
        return "why"

    monkeypatch.setattr(ChatRenderer, "render", slowly)
    monkeypatch.setattr(replica, "_submit", counted)
    messages = [Message(role="user", content="why")]
    chats = [asyncio.create_task(ask(replica, messages=messages)) for _ in range(40)]
    try:
        async with asyncio.timeout(30):
            while begun < len(chats):
                await asyncio.sleep(0)
            assert (await ask(replica, prompt="a")).usage
        assert not any(chat.done() for chat in chats)
        chats[-1].cancel()
    finally:
        rendered.set()
    answers = await asyncio.gather(*chats, return_exceptions=True)
    assert [isinstance(answer, TextGenerationResult) for answer in answers] == [True] * 39 + [False]


async def test_gauges_of_an_unloaded_model_are_nothing(replica: TextGenerationReplica) -> None:
    shown: dict[str, float] = {}

    class Gauge(Silent):
        def set(self, value: float, tags: dict[str, str]) -> None:
            shown[tags["model"]] = value

    replica.metrics._gauges[metrics.CACHE] = Gauge()  # type: ignore[assignment]
    await ask(replica, prompt="a" * 80, max_tokens=1)
    replica.metrics.read()
    assert shown["m"] > 0  # the prompt's beginning is kept
    model = replica.options.repository().find("m", "text_generation")
    assert await replica.unload_model(model)
    gc.collect()
    assert replica.metrics.read() == []
    assert shown == {"m": 0}


async def test_calls_that_are_given_up_leave_no_row_and_no_place(replica: TextGenerationReplica) -> None:
    await ask(replica, prompt="a", max_tokens=1)
    tasks = [asyncio.create_task(ask(replica, [], "a", max_tokens=CONTEXT)) for _ in range(40)]
    await asyncio.sleep(0)
    for number, task in enumerate(tasks):
        if number % 4 == 0:
            await asyncio.sleep(0.002)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    def busy() -> float:
        (report,) = replica.metrics.read()
        return sum(metric.values[0] for metric in report.metrics if metric.name.startswith("text_requests_"))

    while busy():
        await asyncio.sleep(0.01)
    assert (await ask(replica, prompt="a")).usage
