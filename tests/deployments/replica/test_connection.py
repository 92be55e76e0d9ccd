"""A direct connection: frames arrive whole; at the ingress's end every call is answered, cancelled, or lost."""

import asyncio
import itertools
import pickle
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from deployments.contract.chunk import Chunk
from deployments.contract.types import ImageClassification, InferResponse, TextGeneration, TextGenerationResult
from deployments.replica.calls import Call, ReplicaLost
from deployments.replica.connection import FramedConnection, IngressConnection
from serve_app.dispatch.pending import Pending
from tests.serve_app.dispatch.calls import pending_of, stream_of
from tests.serve_app.dispatch.sockets import SocketReplica, socket_folder
from tests.support.until import turns, until

numbers = itertools.count()


@pytest.fixture
def path() -> Iterator[Path]:
    with socket_folder() as folder:
        yield folder / "a.sock"


class Receiver(FramedConnection):
    """Keeps what it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[Any] = []

    def received(self, item: Any) -> None:
        self.items.append(item)


class Wire(asyncio.Transport):
    """Keeps what is written, in the pieces in which it is handed over."""

    def __init__(self, end: socket.socket | None = None) -> None:
        super().__init__({"socket": end})
        self.pieces: list[Any] = []

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.pieces))

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


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_frames_keep_their_order_where_the_socket_is_full(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """A part of a frame is left to the transport then, and so is what follows."""

    async def exchange() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        sender, receiver = Receiver(), Receiver()
        await loop.create_connection(lambda: sender, sock=ours)
        sent: list[object] = []
        for number in range(400):  # More than the socket holds.
            sent += [number, bytes([number % 256]) * (100_000 if number % 50 == 7 else 5_000)]
            sender.write(sent[-2])
            sender.write(sent[-1])
            await turns(1)
        await loop.create_connection(lambda: receiver, sock=theirs)
        await until(lambda: len(receiver.items) == len(sent))
        assert receiver.items == sent
        assert sender.transport is not None
        assert receiver.transport is not None
        sender.transport.abort()
        receiver.transport.abort()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(exchange())


async def test_a_small_frame_is_written_without_the_transport_unless_that_has_something_left() -> None:
    ours, theirs = socket.socketpair()
    sender, wire = Receiver(), Wire(ours)
    sender.connection_made(wire)
    sender.write("first")
    await turns()
    assert (pickle.loads(theirs.recv(1 << 16)[4:]), wire.pieces) == (["first"], [])
    wire.pieces.append(b"left")
    sender.write("second")
    await turns()
    assert len(wire.pieces) > 1
    ours.close()
    theirs.close()


async def test_an_image_is_written_without_a_copy() -> None:
    sender, wire, image = Receiver(), Wire(), bytes(1 << 20)
    sender.connection_made(wire)
    sender.write(ImageClassification(model_id="m", image_data=image))
    await turns()
    assert any(piece is image for piece in wire.pieces)


def call(prompt: str, stream: bool = False) -> Call:
    request = TextGeneration(model_id="m", prompt=prompt, max_tokens=1)
    return Call(request, "r", 60, stream=stream, call_id=f"call-{next(numbers)}")


async def connected(path: Path, lost: list[IngressConnection]) -> IngressConnection:
    loop = asyncio.get_running_loop()

    def ended(connection: IngressConnection) -> str:
        lost.append(connection)
        return "Fatal Python error: Aborted"

    _, transport = await loop.create_unix_connection(lambda: IngressConnection("a", ended), str(path))
    return transport


def send(transport: IngressConnection, pending: Pending) -> "asyncio.Task[InferResponse]":
    return asyncio.create_task(transport.send(pending))


async def test_calls_are_answered_as_they_are_done_not_in_order(path: Path) -> None:
    replica = SocketReplica(path)
    transport = await connected(path, [])
    slow = send(transport, pending_of(call("wait")))
    stream = stream_of(call("ab", stream=True))
    assert await transport.send(stream) == TextGenerationResult(generated_text="ab")
    assert await stream.next_chunk() == Chunk("ab", 2)
    assert stream.replica == "a"
    assert len(transport.pending) == 1
    replica.go.set()
    assert await slow == TextGenerationResult(generated_text="wait")
    assert not transport.pending
    await replica.close()


async def test_a_cancelled_call_is_cancelled_at_its_replica(path: Path) -> None:
    replica = SocketReplica(path)
    transport = await connected(path, [])
    pending = pending_of(call("wait"))
    sending = send(transport, pending)
    await until(lambda: replica.begun)
    sending.cancel()
    await until(lambda: replica.cancelled == [pending.call.call_id])
    assert not transport.pending
    await replica.close()


async def test_a_replica_that_stops_takes_no_new_calls_and_answers_those_it_has(path: Path) -> None:
    replica, lost = SocketReplica(path), list[IngressConnection]()
    transport = await connected(path, lost)
    slow = send(transport, pending_of(call("wait")))
    await until(lambda: replica.begun)
    stopping = asyncio.create_task(replica.server.close())
    await until(lambda: not transport.open)
    replica.go.set()
    assert await slow == TextGenerationResult(generated_text="wait")
    await stopping
    await until(lambda: lost == [transport])


async def test_calls_of_a_lost_connection_without_a_response_fail_as_lost(path: Path) -> None:
    replica, lost = SocketReplica(path), list[IngressConnection]()
    transport = await connected(path, lost)
    slow = send(transport, pending_of(call("wait")))
    await until(lambda: replica.begun)
    await replica.drop_connections()
    with pytest.raises(ReplicaLost) as failed:
        await slow
    assert failed.value.crash == "Fatal Python error: Aborted"
    assert lost == [transport]
    assert not transport.open
    await replica.close()
