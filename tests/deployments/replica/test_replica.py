"""What every replica does with calls: failures become errors, many calls share an exchange, each can be cancelled."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.contract.chunk import Chunk
from deployments.contract.errors import InvalidImage
from deployments.contract.types import Error, InferResponse, TextGeneration, TextGenerationResult
from deployments.replica import replica as module
from deployments.replica.calls import Call, News, OnChunk, Progress, Reply
from deployments.replica.replica import Replica
from tests.support.until import until


class Prompted(Replica):
    """Does what the prompt says, and answers with the prompt."""

    async def infer(self, call: Call, on_chunk: OnChunk | None = None) -> InferResponse:
        assert isinstance(call.request, TextGeneration)
        prompt = call.request.prompt
        if prompt == "refuse":
            raise InvalidImage("not today")
        if prompt == "break":
            raise RuntimeError("a secret")
        if prompt == "wait":
            await asyncio.Event().wait()
        if on_chunk is not None:
            on_chunk(Chunk(prompt, 1))
        return TextGenerationResult(generated_text=prompt)


def call(prompt: str, stream: bool = False) -> Call:
    request = TextGeneration(model_id="m", prompt=prompt, max_tokens=1)
    return Call(request, "request-1", 60, stream=stream, call_id=prompt)


async def exchanged(replica: Replica, *calls: Call) -> list[tuple[int, Reply | News]]:
    return [reply async for replies in replica.exchange(calls) for reply in replies]


async def test_every_failure_is_an_error_that_shows_nothing_of_the_inside() -> None:
    replies = dict(await exchanged(Prompted(), call("refuse"), call("break")))
    assert replies[0] == Error.of(InvalidImage("not today"), "request-1")
    assert isinstance(replies[1], Error)
    assert (replies[1].code, "secret" in replies[1].message) == ("internal", False)


async def test_an_exchange_has_chunks_only_of_the_calls_that_want_them() -> None:
    replies = await exchanged(Prompted(), call("a", stream=True), call("b"))
    a, b = (TextGenerationResult(generated_text=prompt) for prompt in "ab")
    assert [reply for number, reply in replies if number == 0] == [Chunk("a", 1), a]
    assert [reply for number, reply in replies if number == 1] == [b]


async def test_an_exchange_without_an_answer_yet_is_acknowledged_by_an_empty_list() -> None:
    replica = Prompted()
    exchange = replica.exchange([call("wait")])
    assert await anext(exchange) == []
    assert replica.record_autoscaling_stats()["calls_under_way"] == 1
    await exchange.aclose()  # type: ignore[attr-defined]  # it is a generator


async def test_an_exchange_that_is_given_up_leaves_nothing_running() -> None:
    replica = Prompted()
    exchange = replica.exchange([call("wait")])
    await anext(exchange)
    await exchange.aclose()  # type: ignore[attr-defined]  # it is a generator
    await until(lambda: replica.record_autoscaling_stats()["calls_under_way"] == 0)


async def test_a_cancelled_call_is_answered_with_an_error_and_holds_up_no_other() -> None:
    replica = Prompted()
    replies: list[tuple[int, Reply | News]] = []
    async for new in replica.exchange([call("wait"), call("a")]):
        replies += new
        if len(replies) == 1:
            await replica.cancel(["wait", "unknown"])
    assert replies[0] == (1, TextGenerationResult(generated_text="a"))
    ((number, error),) = replies[1:]
    assert isinstance(error, Error)
    assert (number, error.code) == (0, "cancelled")


async def test_a_call_that_is_to_be_alone_waits_for_the_others_and_holds_those_that_come() -> None:
    replica, told = Prompted(), list[tuple[str, News]]()

    def respond(prompt: str, alone: bool = False) -> "asyncio.Task[InferResponse]":
        asked = replace(call(prompt), alone=alone)
        return asyncio.create_task(replica.respond(asked, None, lambda progress: told.append((prompt, progress))))

    waiting = respond("wait")
    await until(lambda: replica.record_autoscaling_stats()["calls_under_way"] == 1.0)
    alone = respond("alone", alone=True)
    await until(lambda: told)
    held = respond("held")
    await until(lambda: len(told) == 2)
    assert not alone.done()
    await replica.cancel(["wait"])
    answers = await asyncio.gather(alone, held, waiting)
    assert [type(answer).__name__ for answer in answers] == ["TextGenerationResult", "TextGenerationResult", "Error"]
    assert told == [
        ("alone", Progress.HELD),
        ("held", Progress.HELD),
        ("alone", Progress.ALONE),
        ("held", Progress.SENT),
    ]


async def test_nothing_is_said_of_progress_while_no_call_is_to_be_alone() -> None:
    replies = await exchanged(Prompted(), call("a"), call("b"))
    assert not [reply for _, reply in replies if isinstance(reply, Progress)]


async def test_a_file_is_there_while_a_call_is_computed_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "alone_file", lambda call_id: tmp_path / call_id)
    replica = Prompted()
    alone = asyncio.create_task(replica.respond(replace(call("wait"), alone=True), None))
    await until((tmp_path / "wait").exists)
    await replica.cancel(["wait"])
    await alone
    assert not (tmp_path / "wait").exists()
