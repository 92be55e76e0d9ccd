"""Work is cancelled when its client disconnects, and only then."""

import asyncio

import pytest
from starlette.requests import Request
from starlette.types import Message

from deployments.contract.errors import Cancelled
from serve_app.http.requests import cancel_on_disconnect


class Client:
    def __init__(self) -> None:
        self.leaves = asyncio.Event()

    async def receive(self) -> Message:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    def request(self) -> Request:
        return Request({"type": "http"}, self.receive)


class Work:
    """Ends with 5 once `result` is set."""

    def __init__(self) -> None:
        self.result = asyncio.Event()
        self.begun = asyncio.Event()
        self.was_cancelled = False

    async def run(self) -> int:
        self.begun.set()
        try:
            await self.result.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return 5


async def test_the_result_is_returned() -> None:
    work = Work()
    work.result.set()
    assert await cancel_on_disconnect(Client().request(), work.run()) == 5


async def test_a_disconnect_cancels_the_work() -> None:
    client, work = Client(), Work()
    waiting = asyncio.create_task(cancel_on_disconnect(client.request(), work.run()))
    await work.begun.wait()
    client.leaves.set()
    with pytest.raises(Cancelled):
        await waiting
    assert work.was_cancelled


async def test_a_cancellation_from_outside_is_passed_on() -> None:
    client, work = Client(), Work()
    waiting = asyncio.create_task(cancel_on_disconnect(client.request(), work.run()))
    await work.begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert work.was_cancelled


async def test_a_failure_of_the_work_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await cancel_on_disconnect(Client().request(), fail())
