"""The direct line to a replica: many calls at once, replies as they come, nothing lost when an end goes away."""

import asyncio
import itertools
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.contract.types import Chunk, Error, ImageClassification, TextGeneration, TextGenerationResult
from deployments.replica.calls import Call, Reply
from deployments.replica.socket_server import FramedConnection, ReplicaSocketServer
from serve_app.dispatch import replica_pool
from serve_app.dispatch.pending import Pending
from serve_app.dispatch.replica_pool import ReplicaPool
from serve_app.dispatch.socket_transport import SocketTransport


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:  # pytest's are too deep for the name of a socket
        monkeypatch.setattr(replica_pool, "sibling_socket", lambda replica_id: Path(name) / f"{replica_id}.sock")
        yield Path(name)


numbers = itertools.count()


class Answering:
    """A replica that answers at once, or after `go`, and remembers what was taken back."""

    def __init__(self, path: Path) -> None:
        self.go = asyncio.Event()
        self.begun: list[str] = []
        self.taken_back: list[str] = []
        self.server = ReplicaSocketServer(path, self.answer)

    async def answer(self, call: Call, say: Callable[[Reply], None]) -> None:
        assert isinstance(call.request, TextGeneration)
        self.begun.append(call.call_id)
        try:
            if call.request.prompt == "wait":
                await self.go.wait()
        except asyncio.CancelledError:
            self.taken_back.append(call.call_id)
            raise
        for index, letter in enumerate(call.request.prompt, 1):
            if call.stream:
                say(Chunk(letter, index))
        say(TextGenerationResult(generated_text=call.request.prompt))


def pending(prompt: str, chunks: list[Chunk] | None = None) -> Pending:
    request = TextGeneration(model_id="m", prompt=prompt, max_tokens=1)
    call = Call(request, "r", 60, stream=chunks is not None, call_id=str(next(numbers)))
    return Pending(call, None if chunks is None else chunks.append)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def connected(path: Path) -> SocketTransport:
    _, line = await asyncio.get_running_loop().create_unix_connection(
        lambda: SocketTransport(lambda _: None), str(path)
    )
    return line


async def test_calls_are_answered_as_they_are_done_not_in_order(folder: Path) -> None:
    replica = Answering(folder / "a.sock")
    line = await connected(folder / "a.sock")
    slow, chunks = pending("wait"), list[Chunk]()
    quick = pending("ab", chunks)
    for one in (slow, quick):
        line.submit(one)
    assert await quick.response == TextGenerationResult(generated_text="ab")
    assert chunks == [Chunk("a", 1), Chunk("b", 2)]
    assert not slow.response.done()
    replica.go.set()
    assert await slow.response == TextGenerationResult(generated_text="wait")
    assert not line.pending
    await replica.server.close()


class Listening(FramedConnection):
    def __init__(self) -> None:
        super().__init__()
        self.items: list[Any] = []

    def received(self, item: Any) -> None:
        self.items.append(item)


class Wire:
    """What is sent, in the pieces in which it is handed over."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def is_closing(self) -> bool:
        return False

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.pieces.extend(pieces)


@pytest.mark.parametrize("cut", [1, 3, 1000, 65536, 250_001, 10**9])
async def test_what_is_sent_arrives_whole_however_it_is_cut(cut: int) -> None:
    sender, receiver, wire = Listening(), Listening(), Wire()
    sender.transport = wire  # type: ignore[assignment]
    letters = b"" if cut < 1000 else bytes(range(256)) * 4000
    frames: list[list[Any]] = [["a"], ["b", letters, "c"], [letters[:70_000]], [], *([n] for n in range(50))]
    for frame in frames:
        for item in frame:
            sender.send(item)
        await asyncio.sleep(0)
    sent = memoryview(b"".join(wire.pieces))
    while sent:
        room = receiver.get_buffer(-1)
        size = min(cut, len(room), len(sent))
        room[:size], sent = sent[:size], sent[size:]
        receiver.buffer_updated(size)
    assert receiver.items == [item for frame in frames for item in frame]
    assert len(receiver._incoming) < 100_000  # of a large frame nothing is kept


async def test_a_picture_is_sent_from_where_it_lies() -> None:
    sender, wire, picture = Listening(), Wire(), bytes(1 << 20)
    sender.transport = wire  # type: ignore[assignment]
    sender.send(ImageClassification(model_id="m", image_data=picture))
    await asyncio.sleep(0)
    assert any(piece is picture for piece in wire.pieces)


async def test_a_call_that_nobody_waits_for_is_taken_back(folder: Path) -> None:
    replica = Answering(folder / "a.sock")
    line = await connected(folder / "a.sock")
    given_up = pending("wait")
    line.submit(given_up)
    await until(lambda: replica.begun)
    given_up.response.cancel()
    await until(lambda: replica.taken_back == [given_up.call.call_id])
    await replica.server.close()


async def test_a_replica_that_leaves_answers_what_it_has_first(folder: Path) -> None:
    replica = Answering(folder / "a.sock")
    line = await connected(folder / "a.sock")
    slow = pending("wait")
    line.submit(slow)
    await until(lambda: replica.begun)
    leaving = asyncio.create_task(replica.server.close())
    await until(lambda: not line.open)
    assert not (folder / "a.sock").exists()
    replica.go.set()
    assert await slow.response == TextGenerationResult(generated_text="wait")
    await leaving


async def test_a_broken_line_tells_what_was_under_way_and_is_made_again_while_its_replica_lives(folder: Path) -> None:
    replica, lost = Answering(folder / "a.sock"), list[Pending]()
    table = {Id("a"): None}
    known = ReplicaPool(lambda: table, enough=2, lost=lost.extend)
    await until(lambda: known.choose("m"))
    line = known.choose("m")
    assert line is not None
    answered, waiting = pending("a"), pending("wait")
    for one in (answered, waiting):
        line.submit(one)
    await answered.response
    (end,) = replica.server.ends
    assert end.transport is not None
    end.transport.abort()
    await until(lambda: lost == [waiting])
    assert not line.open
    await until(lambda: known.choose("m"))
    again = pending("b")
    known.choose("m").submit(again)  # type: ignore[union-attr]  # just seen
    assert await again.response == TextGenerationResult(generated_text="b")
    await replica.server.close()


async def test_a_replica_that_died_gets_no_line_and_takes_none_from_others(folder: Path) -> None:
    dead, alive = (Answering(folder / f"{name}.sock") for name in ("dead", "alive"))
    await dead.server.close()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(folder / "dead.sock"))
    table = {Id("dead"): None, Id("alive"): None}
    known = ReplicaPool(lambda: table, enough=2, lost=lambda _: None)
    await until(lambda: known.choose("m"))
    asked = pending("a")
    known.choose("m").submit(asked)  # type: ignore[union-attr]  # just seen
    assert await asked.response == TextGenerationResult(generated_text="a")
    await alive.server.close()


async def test_a_model_stays_with_its_replica_until_that_is_busy(folder: Path) -> None:
    servers = [Answering(folder / f"{name}.sock") for name in "ab"]
    table = {Id("a"): None, Id("b"): None}
    known = ReplicaPool(lambda: table, enough=2, lost=lambda _: None)
    assert known.choose("m") is None  # not connected yet: the handle does it
    await until(lambda: len([line for line in known._lines.values() if line]) == 2)
    first = known.choose("m")
    assert first is not None
    for _ in range(2):
        assert known.choose("m") is first
        first.submit(pending("wait"))
    second = known.choose("m")
    assert second is not None
    assert second is not first
    assert second.sent.keys() == {"m"}
    table = {Id("a"): None, Id("elsewhere"): None}
    assert known.choose("m") is None  # a replica on another machine: the handle knows how to share
    for server in servers:
        server.go.set()
        await server.server.close()


class Id(str):
    """As Serve's ReplicaID: hashable, with a unique id."""

    @property
    def unique_id(self) -> str:
        return str(self)


async def test_an_error_is_an_answer(folder: Path) -> None:
    async def refuse(call: Call, say: Callable[[Reply], None]) -> None:
        say(Error(message="no", code="internal"))

    server = ReplicaSocketServer(folder / "a.sock", refuse)
    line = await connected(folder / "a.sock")
    asked = pending("a")
    line.submit(asked)
    assert await asked.response == Error(message="no", code="internal")
    await server.close()
