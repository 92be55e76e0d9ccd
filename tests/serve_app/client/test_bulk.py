"""Many requests at once: answers in order, each its own, what is refused for the moment asked again."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence

import pytest

from deployments.contract.errors import DeadlineExceeded, Unavailable
from deployments.contract.types import Error, InferRequest, InferResponse, TextGeneration, TextGenerationResult
from serve_app.client import AsyncModelRuntimeClient, ModelRuntimeClient, bulk
from tests.support.http_server import Answering
from tests.support.ports import free_port
from tests.support.until import until


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


def families(ask: Callable[[Sequence[bytes]], Awaitable[Sequence[bytes]]], workers: int = 2) -> bulk.Families:
    """By the first letter; at most three lines of ten bytes together."""
    return bulk.Families(ask, lambda line: line[:1].decode(), workers, most=3, most_bytes=10)


async def test_lines_of_a_slow_family_hold_up_no_other_one_and_all_are_answered_in_order() -> None:
    slow_answers, asked = asyncio.Event(), list[list[bytes]]()

    async def ask(group: Sequence[bytes]) -> list[bytes]:
        asked.append(list(group))
        if group[0].startswith(b"s"):
            await slow_answers.wait()
        return [line.upper() for line in group]

    lines = [b"%s%d" % (family, number) for number in range(12) for family in (b"s", b"f")]
    answers = families(ask).in_order(lines, ahead=20, ahead_bytes=1000)
    first = asyncio.ensure_future(anext(answers))
    await until(lambda: sum(len(group) for group in asked if group[0].startswith(b"f")) == 10)
    assert sum(len(group) for group in asked if group[0].startswith(b"s")) == 6
    assert {line[:1] for group in asked for line in group[1:] if line[:1] != group[0][:1]} == set()
    slow_answers.set()
    assert [*await first, *[line async for some in answers for line in some]] == [line.upper() for line in lines]
    assert max(map(len, asked)) == 3


async def test_lines_that_are_asked_together_are_bounded_in_bytes_as_are_those_that_are_asked_ahead() -> None:
    answer, asked = asyncio.Event(), list[list[bytes]]()

    async def ask(group: Sequence[bytes]) -> Sequence[bytes]:
        asked.append(list(group))
        await answer.wait()
        return group

    lines = [b"a" * 4, b"a" * 4, b"a" * 4, b"a" * 100, b"a" * 5]
    answers = families(ask, workers=9).in_order(lines, ahead=100, ahead_bytes=20)
    first = asyncio.ensure_future(anext(answers))
    await until(lambda: asked)
    assert asked == [lines[:2], lines[2:3]]
    answer.set()
    told = [*await first, *[line async for some in answers for line in some]]
    assert told == lines
    assert asked[2:] == [lines[3:4], lines[4:]]


async def test_what_asking_raises_ends_the_answers_and_what_is_under_way() -> None:
    ended: list[bytes] = []

    async def ask(group: Sequence[bytes]) -> Sequence[bytes]:
        if group[0] == b"bad":
            raise Unavailable("no runtime")
        try:
            await asyncio.Event().wait()
        finally:
            ended.extend(group)
        return group

    answers = families(ask).in_order([b"bad", b"c", b"d", b"bad"], 100, 1000)
    with pytest.raises(Unavailable):
        await anext(answers)
    assert sorted(ended) == [b"c", b"d"]
