"""Many requests at once: answers in order, each its own, what is refused for the moment asked again."""

import asyncio
import itertools
from collections.abc import Iterator

import pytest

from deployments.contract.errors import DeadlineExceeded, Unavailable
from deployments.contract.types import Error, InferRequest, InferResponse, TextGeneration, TextGenerationResult
from serve_app.client import AsyncModelRuntimeClient, ModelRuntimeClient, bulk
from tests.support.http_server import Answering
from tests.support.ports import free_port


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "FIRST_PAUSE_S", 0)


def asked(prompt: str) -> TextGeneration:
    return TextGeneration(model_id="m", prompt=prompt, max_tokens=1)


def said(request: InferRequest) -> InferResponse:
    """The prompt; "broken" has an error."""
    assert isinstance(request, TextGeneration)
    if request.prompt == "broken":
        return Error(message="no", code="prompt_too_long")
    return TextGenerationResult(generated_text=request.prompt)


PROMPTS = ["a", "broken", *map(str, range(50))]


def expected(prompts: list[str]) -> list[InferResponse]:
    return [said(asked(prompt)) for prompt in prompts]


def test_map_gives_the_answers_in_order_and_an_error_as_an_answer(server: Answering) -> None:
    server.script = said
    with ModelRuntimeClient(server.url) as client:
        assert list(client.map(map(asked, PROMPTS), concurrency=8)) == expected(PROMPTS)
        assert list(client.map([])) == []


async def test_the_async_client_maps_too(server: Answering) -> None:
    server.script = said
    async with AsyncModelRuntimeClient(server.url) as client:
        assert [answer async for answer in client.map(map(asked, PROMPTS), 8)] == expected(PROMPTS)


def test_requests_are_taken_as_answers_are(server: Answering) -> None:
    server.script = said
    taken = itertools.count()

    def endless() -> Iterator[TextGeneration]:
        while True:
            yield asked(str(next(taken)))

    with ModelRuntimeClient(server.url) as client:
        answers = client.map(endless(), concurrency=4)
        assert [next(answers) for _ in range(10)] == expected([str(number) for number in range(10)])
        answers.close()
    assert next(taken) <= 14


async def test_what_is_refused_for_the_moment_is_asked_again() -> None:
    busy = Error(message="busy", code="overloaded", retryable=True)
    replies: list[InferResponse] = [busy, busy, TextGenerationResult(generated_text="a")]

    async def ask() -> InferResponse:
        return replies.pop(0)

    assert await bulk.answer(ask) == TextGenerationResult(generated_text="a")
    replies = [busy] * bulk.ATTEMPTS
    assert await bulk.answer(ask) == busy
    assert not replies


async def test_a_deadline_is_an_answer() -> None:
    async def ask() -> InferResponse:
        raise DeadlineExceeded("too late")

    answer = await bulk.answer(ask)
    assert isinstance(answer, Error)
    assert answer.code == "deadline_exceeded"


def test_a_runtime_that_cannot_be_reached_is_an_exception() -> None:
    with ModelRuntimeClient(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(Unavailable):
        list(client.map([asked("a")]))


async def test_closing_cancels_what_is_under_way() -> None:
    ended: list[int] = []

    async def work(number: int) -> int:
        try:
            return number if not number else await asyncio.Event().wait()
        finally:
            ended.append(number)

    answers = bulk.in_order(work, range(100), 3)
    assert await anext(answers) == 0
    await answers.aclose()
    assert ended == [0, 1, 2]
