"""A replica that listens: calls are answered side by side, and none is lost at the end."""

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.contract.chunk import Chunk
from deployments.contract.types import InferResponse, TextGeneration, TextGenerationResult
from deployments.replica.calls import Call, Holdings, OnChunk, OnNews
from deployments.replica.connection import LEAVING
from deployments.replica.socket_server import ReplicaSocketServer
from tests.deployments.replica.test_connection import Receiver
from tests.support.until import until


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:  # pytest's are too deep for the name of a socket
        yield Path(name) / "a.sock"


class Waiting:
    """A replica that answers once `go` is set, the prompt "quick" at once; it keeps the ids of what was cancelled."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.held = Holdings()

    def holdings(self) -> Holdings:
        return self.held

    async def respond(self, call: Call, on_chunk: OnChunk | None, on_news: OnNews) -> InferResponse:
        assert isinstance(call.request, TextGeneration)
        self.begun.append(call.call_id)
        try:
            if call.request.prompt != "quick":
                await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.append(call.call_id)
        if on_chunk is not None:
            on_chunk(Chunk("a", 1))
        return TextGenerationResult(generated_text=call.request.prompt)


def call(call_id: str, prompt: str = "slow", stream: bool = False) -> Call:
    request = TextGeneration(model_id="m", prompt=prompt, max_tokens=1)
    return Call(request, "r", 60, stream=stream, call_id=call_id)


async def connected(path: Path) -> Receiver:
    _, connection = await asyncio.get_running_loop().create_unix_connection(Receiver, str(path))
    await until(lambda: connection.items)
    assert connection.items.pop() == Holdings()
    return connection


Start = Callable[[], tuple[Waiting, ReplicaSocketServer]]


@pytest.fixture
def start(path: Path) -> Start:
    def started() -> tuple[Waiting, ReplicaSocketServer]:
        replica = Waiting()
        return replica, ReplicaSocketServer(replica, path)

    return started


async def test_a_slow_call_holds_up_no_other_and_chunks_come_where_they_are_wanted(path: Path, start: Start) -> None:
    replica, server = start()
    connection = await connected(path)
    connection.write(call("1"))
    connection.write(call("2", "quick", stream=True))
    quick = TextGenerationResult(generated_text="quick")
    await until(lambda: connection.items == [("2", Chunk("a", 1)), ("2", quick)])
    replica.go.set()
    await until(lambda: connection.items[2:] == [("1", TextGenerationResult(generated_text="slow"))])
    await server.close()


async def test_what_a_replica_holds_is_reported_to_every_ingress_once_for_each_change(path: Path, start: Start) -> None:
    replica, server = start()
    connections = [await connected(path) for _ in range(2)]
    replica.held = Holdings(frozenset("m"), 0.5)
    for _ in range(3):
        server.report_holdings()
    for connection in connections:
        connection.write(call("1", "quick"))
    await until(lambda: all(len(connection.items) == 2 for connection in connections))
    assert all(connection.items[0] == replica.held for connection in connections)
    await server.close()


async def test_a_call_whose_id_comes_again_is_cancelled(path: Path, start: Start) -> None:
    replica, server = start()
    connection = await connected(path)
    connection.write(call("1"))
    await until(lambda: replica.begun == ["1"])
    connection.write("1")
    await until(lambda: replica.cancelled == ["1"])
    connection.write("unknown")
    await server.close()


async def test_a_call_cancelled_in_its_own_frame_never_begins_and_does_not_keep_the_server_open(
    path: Path, start: Start
) -> None:
    replica, server = start()
    connection = await connected(path)
    for item in (call("1"), "1", call("2", "quick")):
        connection.write(item)
    await until(lambda: connection.items)
    assert replica.begun == ["2"]
    async with asyncio.timeout(10):
        await server.close()


async def test_calls_of_a_lost_connection_are_cancelled(path: Path, start: Start) -> None:
    replica, server = start()
    connection = await connected(path)
    connection.write(call("1"))
    await until(lambda: replica.begun)
    assert connection.transport is not None
    connection.transport.abort()
    await until(lambda: replica.cancelled == ["1"])
    await until(lambda: not server.connections)
    await server.close()


async def test_a_server_that_closes_answers_first_what_is_under_way(path: Path, start: Start) -> None:
    replica, server = start()
    connection = await connected(path)
    connection.write(call("1"))
    await until(lambda: replica.begun)
    closing = asyncio.create_task(server.close())
    await until(lambda: connection.items == [LEAVING])
    await until(lambda: not path.exists())
    replica.go.set()
    await closing
    await until(lambda: connection.items[1:] == [("1", TextGenerationResult(generated_text="slow"))])
