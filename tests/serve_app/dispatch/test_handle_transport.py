"""Calls by Serve's handle: those of one moment share an exchange, and none is lost without an error."""

import asyncio
import itertools

import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from deployments.contract.chat import Message
from deployments.contract.errors import Overloaded
from deployments.contract.types import InferResponse, TextGeneration, TextGenerationResult
from deployments.replica.calls import Call, ReplicaLost
from serve_app.dispatch.handle_transport import CALLS_TOGETHER, HandleTransport, size_of
from serve_app.dispatch.pending import Pending
from tests.serve_app.dispatch.calls import pending_of
from tests.serve_app.dispatch.handles import FakeHandle
from tests.support.until import turns, until

numbers = itertools.count()


@pytest.fixture
def handle() -> FakeHandle:
    return FakeHandle()


@pytest.fixture
def transport(handle: FakeHandle) -> HandleTransport:
    return HandleTransport(handle.handle())


def pending(prompt: str = "", **fields: object) -> Pending:
    request = TextGeneration.model_validate({"model_id": "m", "prompt": prompt, "max_tokens": 1} | fields)
    return pending_of(Call(request, "r", 60, call_id=f"call-{next(numbers)}"))


def send(transport: HandleTransport, *pendings: Pending) -> "list[asyncio.Task[InferResponse]]":
    return [asyncio.create_task(transport.send(one)) for one in pendings]


def texts(prompts: str) -> list[TextGenerationResult]:
    return [TextGenerationResult(generated_text=prompt) for prompt in prompts]


async def test_calls_that_come_while_one_is_in_transit_go_together_with_the_next(
    transport: HandleTransport, handle: FakeHandle
) -> None:
    first = send(transport, pending("a"))
    await until(lambda: handle.sent == [["a"]])
    later = []
    for prompt in "bc":
        later += send(transport, pending(prompt))
        await turns(5)  # Enough for it to be sent, if it were.
    assert handle.sent == [["a"]]
    handle.exchanges[0].reply()  # It has arrived; its answer may take as long as it likes.
    await until(lambda: handle.sent == [["a"], ["b", "c"]])
    handle.exchanges[1].answer()
    assert await asyncio.gather(*later) == texts("bc")
    handle.exchanges[0].answer()
    assert await asyncio.gather(*first) == texts("a")


async def test_calls_of_one_moment_go_together_and_no_exchange_is_too_full(
    transport: HandleTransport, handle: FakeHandle
) -> None:
    sending = send(transport, *(pending(str(number)) for number in range(CALLS_TOGETHER + 1)))
    await until(lambda: handle.exchanges)
    assert len(handle.exchanges[0].prompts) == CALLS_TOGETHER
    handle.exchanges[0].answer()
    await until(lambda: len(handle.exchanges) == 2)
    handle.exchanges[1].answer()
    await asyncio.gather(*sending)


async def test_a_cancelled_call_is_cancelled_at_its_replica_and_the_last_one_ends_the_exchange(
    transport: HandleTransport, handle: FakeHandle
) -> None:
    calls = [pending("a"), pending("b")]
    first, last = send(transport, *calls)
    await until(lambda: handle.exchanges)
    first.cancel()
    await until(lambda: handle.broadcasts == [("cancel", [calls[0].call.call_id])])
    assert not handle.exchanges[0].cancelled
    last.cancel()
    await until(lambda: handle.exchanges[0].cancelled)
    await until(lambda: transport.idle)


async def test_a_call_that_is_cancelled_while_it_waits_is_never_sent(
    transport: HandleTransport, handle: FakeHandle
) -> None:
    (first,) = send(transport, pending("a"))
    await until(lambda: handle.exchanges)
    cancelled, other = send(transport, pending("b"), pending("c"))
    await turns()
    cancelled.cancel()
    handle.exchanges[0].answer()
    await until(lambda: len(handle.exchanges) == 2)
    assert handle.sent[1] == ["c"]
    handle.exchanges[1].answer()
    await asyncio.gather(first, other)


@pytest.mark.parametrize("failure", [RayActorError(), None], ids=["killed", "ended in good order"])
async def test_calls_of_a_lost_replica_without_a_response_fail_as_lost(
    transport: HandleTransport, handle: FakeHandle, failure: Exception | None
) -> None:
    answered, other = send(transport, pending("a"), pending("b"))
    await until(lambda: handle.exchanges)
    handle.exchanges[0].reply((0, texts("a")[0]))
    handle.exchanges[0].end(failure)
    assert [await answered] == texts("a")
    with pytest.raises(ReplicaLost):
        await other


async def test_a_repeated_call_goes_at_once_and_alone(transport: HandleTransport, handle: FakeHandle) -> None:
    first = send(transport, pending("a"))
    await until(lambda: handle.exchanges)
    repeated = pending("b")
    repeated.repeat()
    second = send(transport, repeated, pending("c"))
    await until(lambda: handle.sent == [["a"], ["b"]])
    for number in range(3):
        await until(lambda number=number: len(handle.exchanges) > number)  # type: ignore[misc]  # bound at once
        handle.exchanges[number].answer()
    assert await asyncio.gather(*first, *second) == texts("abc")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(RuntimeError("no"), RuntimeError), (BackPressureError(1, 1), Overloaded)],
    ids=["any failure", "a full queue"],
)
async def test_what_the_handle_raises_fails_every_call_of_the_exchange(
    transport: HandleTransport, handle: FakeHandle, raised: Exception, expected: type[Exception]
) -> None:
    sending = send(transport, pending("a"), pending("b"))
    await until(lambda: handle.exchanges)
    handle.exchanges[0].end(raised)
    for one in sending:
        with pytest.raises(expected):
            await one


async def test_the_size_of_a_call_is_that_of_its_contents() -> None:
    assert size_of(pending("a" * 1000)) >= 1000
    assert size_of(pending(prompt_ids=[1] * 1000)) >= 8000
    assert size_of(pending(messages=[Message(role="user", content="a" * 1000)] * 3)) >= 3000
