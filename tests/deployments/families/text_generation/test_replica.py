"""The TextGeneration replica without Ray: every field of a request reaches the engine, a cancelled one leaves it.

Events of the engine's thread reach the event loop in their order, at the price of one wake-up for many.
"""

import asyncio
import json
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from deployments.contract.chat import Message
from deployments.contract.chunk import Chunk
from deployments.contract.errors import Internal, InvalidRequest, ModelLoadFailed, PromptTooLong
from deployments.contract.text_generation import TokenLogprob
from deployments.contract.types import SamplingOptions, TextGenerationResult
from deployments.engines.text.chat_template import ChatRenderer
from deployments.engines.text.request import Finished, GenerationRequest
from deployments.engines.text.tokenizer import Tokenizer
from deployments.families.text_generation import replica as replica_module
from deployments.families.text_generation.replica import (
    SHORT,
    GenerationOutput,
    LoopNotifier,
    TextGenerationReplica,
    _end_before,
)
from deployments.repository.manifest import Manifest
from deployments.repository.model import Model
from tests.deployments.families.text_generation.conftest import ask
from tests.support.text_models import CONTEXT, PROMPTS, Reference, byte_level_tokenizer
from tests.support.until import turns, until

END = Finished("stop", 1, 2)


class CountedLoop(asyncio.SelectorEventLoop):
    """Counts how often it is woken."""

    wakes = 0

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object, **options: object) -> asyncio.Handle:
        self.wakes += 1
        return super().call_soon_threadsafe(callback, *args)


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def emit_all(outputs: list[GenerationOutput]) -> None:
    for output in outputs:
        output.emit(Chunk("a", 1))
        output.emit(END)


async def test_a_stream_and_a_whole_response_are_the_same(replica: TextGenerationReplica, models: Path) -> None:
    chunks: list[Chunk] = []
    streamed = await ask(replica, chunks, PROMPTS[3], logprobs=2)
    whole = await ask(replica, None, PROMPTS[3], logprobs=2)
    assert streamed.model_copy(update={"logprobs": None}) == whole.model_copy(update={"logprobs": None})
    assert "".join(chunk.text for chunk in chunks) == whole.generated_text
    assert [logprob for chunk in chunks for logprob in chunk.logprobs] == streamed.logprobs
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


async def test_a_schema_is_followed_and_an_invalid_one_refused(replica: TextGenerationReplica) -> None:
    schema: dict[str, object] = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    answer = await ask(replica, prompt="a", max_tokens=CONTEXT, temperature=1.0, seed=1, json_schema=schema)
    assert json.loads(answer.generated_text) in ({"ok": True}, {"ok": False})
    with pytest.raises(InvalidRequest):
        await ask(replica, prompt="a", json_schema={"type": "no type"})


@pytest.mark.parametrize(("fields", "threads"), [({}, 0), ({"prompt": "a " * SHORT}, 1), ({"json_schema": {}}, 1)])
async def test_a_short_prompt_wakes_no_thread(
    fields: dict[str, Any], threads: int, replica: TextGenerationReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ask(replica, prompt="a", max_tokens=1)
    started: list[object] = []
    to_thread = asyncio.to_thread

    async def counted(function: Callable[[], object], *arguments: object) -> object:
        started.append(function)
        return await to_thread(function, *arguments)

    monkeypatch.setattr(asyncio, "to_thread", counted)
    asked: dict[str, Any] = {"prompt": "a", "max_tokens": 1}
    with suppress(PromptTooLong):
        await ask(replica, **asked | fields)
    assert len(started) == threads


async def test_slow_chats_do_not_delay_prompts(replica: TextGenerationReplica, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: the event loop's threads are few."""
    await ask(replica, prompt="a", max_tokens=1)
    rendered = threading.Event()
    submit = replica._submit
    submitting = 0

    async def counted(*request: Any) -> Any:
        nonlocal submitting
        submitting += 1
        return await submit(*request)

    def slowly(renderer: ChatRenderer, messages: object, options: object) -> str:
        assert rendered.wait(60)
        return "why"

    monkeypatch.setattr(ChatRenderer, "render", slowly)
    monkeypatch.setattr(replica, "_submit", counted)
    messages = [Message(role="user", content="why")]
    chats = [asyncio.create_task(ask(replica, messages=messages)) for _ in range(40)]
    try:
        await until(lambda: submitting == len(chats), timeout_s=30)
        async with asyncio.timeout(30):
            assert (await ask(replica, prompt="a")).usage
        assert not any(chat.done() for chat in chats)
        chats[-1].cancel()
    finally:
        rendered.set()
    answers = await asyncio.gather(*chats, return_exceptions=True)
    assert [isinstance(answer, TextGenerationResult) for answer in answers] == [True] * 39 + [False]


async def test_a_text_that_is_not_done_in_time_is_the_text_that_there_is(
    replica: TextGenerationReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = await ask(replica, prompt="a", max_tokens=CONTEXT)
    append, ending = GenerationRequest.append, list[float]()

    def at_the_third_token(request: GenerationRequest, *arguments: Any) -> str | None:
        if request.generated == 2:
            request.end_early()
        return append(request, *arguments)

    def end_before(ends_at: float, request: GenerationRequest) -> None:
        ending.append(ends_at - asyncio.get_running_loop().time())

    monkeypatch.setattr(GenerationRequest, "append", at_the_third_token)
    monkeypatch.setattr(replica_module, "_end_before", end_before)
    cut = await ask(replica, prompt="a", max_tokens=CONTEXT)
    assert cut.usage
    assert (cut.finish_reason, cut.usage.completion_tokens) == ("deadline", 3)
    assert whole.generated_text.startswith(cut.generated_text)
    assert ending == [pytest.approx(60, abs=10)]


async def test_a_text_that_has_not_begun_in_time_has_exceeded_its_deadline(
    replica: TextGenerationReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    def over(request: GenerationRequest) -> bool:
        request.end_early()
        return True

    monkeypatch.setattr(GenerationRequest, "over", property(over))
    with pytest.raises(TimeoutError):
        await ask(replica, prompt="a")


@pytest.mark.parametrize(("left_s", "early_s"), [(60.0, 1.0), (2.0, 0.2)])
async def test_a_text_ends_so_early_that_its_answer_arrives_in_time(left_s: float, early_s: float) -> None:
    request = GenerationRequest([3], 9, SamplingOptions(), Tokenizer(byte_level_tokenizer()), lambda event: None)
    now = asyncio.get_running_loop().time()
    timer = _end_before(now + left_s, request)
    assert timer is not None
    assert timer.when() - now == pytest.approx(left_s - early_s, abs=0.1)
    timer._run()  # What the event loop calls then.
    assert request.cancelled
    timer.cancel()
    assert _end_before(math.inf, request) is None


async def test_cancelled_calls_leave_no_request_behind(replica: TextGenerationReplica) -> None:
    await ask(replica, prompt="a", max_tokens=1)
    tasks = [asyncio.create_task(ask(replica, [], "a", max_tokens=CONTEXT)) for _ in range(40)]
    await turns()
    for number, task in enumerate(tasks):
        if number % 4 == 0:  # At different moments of their way.
            await asyncio.to_thread(int)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    def busy() -> float:
        (report,) = replica.metrics.read()
        return sum(metric.values[0] for metric in report.metrics if metric.name.startswith("text_requests_"))

    await until(lambda: not busy(), timeout_s=60)
    assert (await ask(replica, prompt="a")).usage


async def test_a_model_is_loaded_with_the_draft_that_its_manifest_names(
    replica: TextGenerationReplica, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Model("small", None, tmp_path, "d", manifest=Manifest(dtype="int8"))
    loaded: list[object] = []

    def load_engine(*folder: object, draft: object, **options: object) -> None:
        loaded.append(draft)
        raise ModelLoadFailed("not here")

    monkeypatch.setattr(replica, "load_engine", load_engine)
    for draft in (None, small):
        with pytest.raises(ModelLoadFailed, match="not here"):
            replica.load(Model("m", None, models / "m", "d", draft=draft))
    assert loaded == [None, ("small", tmp_path, "int8")]


async def test_chunks_come_in_order_and_the_end_after_them() -> None:
    chunks: list[Chunk] = []
    output = GenerationOutput(LoopNotifier(asyncio.get_running_loop()), chunks.append)
    logprob = TokenLogprob(token="b", logprob=-1.0, utf8=[98], top=[])

    def generate() -> None:
        output.emit(Chunk("a", 1))
        output.emit(Chunk("b", 2, (logprob,)))
        output.emit(END)

    in_a_thread(generate)
    assert await output.finished == END
    assert [chunk.text for chunk in chunks] == ["a", "b"]
    assert output.texts == ["a", "b"]
    assert output.logprobs == [logprob]


async def test_a_failure_is_raised_where_the_end_is_awaited() -> None:
    output = GenerationOutput(LoopNotifier(asyncio.get_running_loop()), None)
    output.emit(Internal("the model failed"))
    with pytest.raises(Internal, match="the model failed"):
        await output.finished


async def test_the_end_of_a_cancelled_request_is_dropped() -> None:
    output = GenerationOutput(LoopNotifier(asyncio.get_running_loop()), None)
    output.finished.cancel()
    output.emit(END)
    await turns()
    assert output.finished.cancelled()


def test_events_that_come_at_once_wake_the_loop_once() -> None:
    loop = CountedLoop()

    async def run() -> int:
        notifier = LoopNotifier(loop)
        outputs = [GenerationOutput(notifier, None) for _ in range(5)]
        before = loop.wakes
        in_a_thread(lambda: emit_all(outputs))
        woken = loop.wakes - before
        await asyncio.gather(*(output.finished for output in outputs))
        return woken

    try:
        assert loop.run_until_complete(run()) == 1
    finally:
        loop.close()
