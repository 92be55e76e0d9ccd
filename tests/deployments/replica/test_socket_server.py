"""The direct connection to a replica: frames arrive whole, calls are answered side by side, none is lost at the end."""

import asyncio
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.contract.chunk import Chunk
from deployments.contract.types import ImageClassification, InferResponse, TextGeneration, TextGenerationResult
from deployments.replica.calls import Call, OnChunk
from deployments.replica.socket_server import LEAVING, FramedConnection, ReplicaSocketServer
from tests.support.until import turns, until


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:  # pytest's are too deep for the name of a socket
        yield Path(name) / "a.sock"


class Receiver(FramedConnection):
    """Keeps what it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[Any] = []

    def received(self, item: Any) -> None:
        self.items.append(item)


class Wire(asyncio.Transport):
    """Keeps what is written, in the pieces in which it is handed over."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[Any] = []

    def is_closing(self) -> bool:
        return False

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.pieces.extend(list_of_data)


@pytest.mark.parametrize("cut", [1, 3, 1000, 65536, 250_001, 10**9])
async def test_what_is_written_arrives_whole_however_it_is_cut(cut: int) -> None:
    sender, receiver, wire = Receiver(), Receiver(), Wire()
    sender.connection_made(wire)
    letters = b"" if cut < 1000 else bytes(range(256)) * 4000
    frames: list[list[Any]] = [["a"], ["b", letters, "c"], [letters[:70_000]], [], *([n] for n in range(50))]
    for frame in frames:
        for item in frame:
            sender.write(item)
        await turns()
    sent = memoryview(b"".join(wire.pieces))
    while sent:
        buffer = receiver.get_buffer(-1)
        size = min(cut, len(buffer), len(sent))
        buffer[:size], sent = sent[:size], sent[size:]
        receiver.buffer_updated(size)
    assert receiver.items == [item for frame in frames for item in frame]
    assert len(receiver._incoming) < 100_000  # of a large frame nothing is kept


async def test_an_image_is_written_without_a_copy() -> None:
    sender, wire, image = Receiver(), Wire(), bytes(1 << 20)
    sender.connection_made(wire)
    sender.write(ImageClassification(model_id="m", image_data=image))
    await turns()
    assert any(piece is image for piece in wire.pieces)


class Waiting:
    """A replica that answers once `go` is set, the prompt "quick" at once; it keeps the ids of what was cancelled."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun: list[str] = []
        self.cancelled: list[str] = []

    async def respond(self, call: Call, on_chunk: OnChunk | None) -> InferResponse:
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
