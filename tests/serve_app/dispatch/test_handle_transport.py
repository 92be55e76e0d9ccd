"""Requests on their way by Serve's handle: they share calls, and none is lost with its replica."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from ray.exceptions import RayActorError

from deployments.contract.errors import Unavailable
from deployments.contract.types import Chunk, TextGeneration, TextGenerationResult
from deployments.replica.calls import Call, Reply
from serve_app.dispatch.handle_transport import CALLS_TOGETHER, HandleTransport
from serve_app.dispatch.pending import Pending

numbers = itertools.count()


class Exchange:
    """One handle call: what the test says comes out of it."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.prompts = [call.request.prompt for call in calls if isinstance(call.request, TextGeneration)]
        self.cancelled = False
        self._said: asyncio.Queue[list[tuple[int, Reply]] | Exception | None] = asyncio.Queue()

    def say(self, *replies: tuple[int, Reply]) -> None:
        self._said.put_nowait(list(replies))

    def answer(self) -> None:
        self.say(*((n, TextGenerationResult(generated_text=prompt)) for n, prompt in enumerate(self.prompts)))
        self.end()

    def end(self, failure: Exception | None = None) -> None:
        self._said.put_nowait(failure)

    def cancel(self) -> None:
        self.cancelled = True

    async def __aiter__(self) -> AsyncIterator[list[tuple[int, Reply]]]:
        while (said := await self._said.get()) is not None:
            if isinstance(said, Exception):
                raise said
            yield said


class Handle:
    """Remembers the exchanges, and which calls it was told to drop."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.dropped: list[str] = []

    def remote(self, calls: Sequence[Call]) -> Exchange:
        self.exchanges.append(Exchange(calls))
        return self.exchanges[-1]

    async def cancel(self, call_ids: Sequence[str]) -> None:
        self.dropped += call_ids

    @property
    def sent(self) -> list[list[str]]:
        return [exchange.prompts for exchange in self.exchanges]


@pytest.fixture
def handle() -> Handle:
    return Handle()


@pytest.fixture
def lane(handle: Handle) -> HandleTransport:
    return HandleTransport(handle, handle.cancel)


def pending(prompt: str, told: list[Chunk] | None = None) -> Pending:
    request = TextGeneration(model_id="m", prompt=prompt, max_tokens=1)
    call = Call(request, "r", 60, stream=told is not None, call_id=str(next(numbers)))
    return Pending(call, None if told is None else told.append)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_what_comes_while_a_call_is_in_transit_goes_together_with_the_next(
    lane: HandleTransport, handle: Handle
) -> None:
    lane.submit(pending("a"))
    await until(lambda: handle.sent == [["a"]])
    waiting = [pending(prompt) for prompt in "bc"]
    for one in waiting:
        lane.submit(one)
        for _ in range(5):  # Turns enough for it to be sent, if it were.
            await asyncio.sleep(0)
    assert handle.sent == [["a"]]
    handle.exchanges[0].say()  # It has arrived; its answer may take as long as it likes.
    await until(lambda: handle.sent == [["a"], ["b", "c"]])
    handle.exchanges[1].answer()
    assert [(await one.response).generated_text for one in waiting] == ["b", "c"]  # type: ignore[attr-defined]


async def test_what_comes_at_once_goes_at_once_and_no_call_is_too_full(lane: HandleTransport, handle: Handle) -> None:
    for number in range(CALLS_TOGETHER + 1):
        lane.submit(pending(str(number)))
    await until(lambda: handle.exchanges)
    assert len(handle.exchanges[0].prompts) == CALLS_TOGETHER
    handle.exchanges[0].say()
    await until(lambda: len(handle.exchanges) == 2)


async def test_one_of_several_that_is_taken_back_is_dropped_and_the_last_one_ends_the_call(
    lane: HandleTransport, handle: Handle
) -> None:
    first, last = pending("a"), pending("b")
    for one in (first, last):
        lane.submit(one)
    await until(lambda: handle.exchanges)
    first.response.cancel()
    await until(lambda: handle.dropped == [first.call.call_id])
    assert not handle.exchanges[0].cancelled
    last.response.cancel()
    await until(lambda: handle.exchanges[0].cancelled)
    await until(lambda: lane.idle)


async def test_one_that_is_taken_back_while_it_waits_is_never_sent(lane: HandleTransport, handle: Handle) -> None:
    lane.submit(pending("a"))
    await until(lambda: handle.exchanges)
    given_up, other = pending("b"), pending("c")
    for one in (given_up, other):
        lane.submit(one)
    given_up.response.cancel()
    handle.exchanges[0].answer()
    await until(lambda: len(handle.exchanges) == 2)
    assert handle.sent[1] == ["c"]


@pytest.mark.parametrize("failure", [RayActorError(), None], ids=["killed", "ended in good order"])
async def test_what_a_lost_replica_had_is_sent_once_more_each_alone(
    lane: HandleTransport, handle: Handle, failure: Exception | None
) -> None:
    told: list[Chunk] = []
    answered, streamed, other = pending("a"), pending("b", told), pending("c")
    for one in (answered, streamed, other):
        lane.submit(one)
    await until(lambda: handle.exchanges)
    lost = handle.exchanges[0]
    lost.say((0, TextGenerationResult(generated_text="a")), (1, Chunk("xy", 2)))
    lost.end(failure)
    await until(lambda: handle.sent[1:] == [["b"], ["c"]])
    handle.exchanges[1].say((0, Chunk("xyz", 3)), (0, TextGenerationResult(generated_text="xyz")))
    assert await streamed.response == TextGenerationResult(generated_text="xyz")
    assert "".join(chunk.text for chunk in told) == "xyz"
    handle.exchanges[2].end(failure)
    with pytest.raises(Unavailable):
        await other.response
    assert len(handle.exchanges) == 3


async def test_what_the_handle_refuses_is_told_to_each(lane: HandleTransport, handle: Handle) -> None:
    asked = [pending(prompt) for prompt in "ab"]
    for one in asked:
        lane.submit(one)
    await until(lambda: handle.exchanges)
    handle.exchanges[0].end(RuntimeError("no"))
    for one in asked:
        with pytest.raises(RuntimeError):
            await one.response
