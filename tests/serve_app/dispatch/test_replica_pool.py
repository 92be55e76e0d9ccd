"""The direct line to a replica: many calls at once, replies as they come, nothing lost when an end goes away."""

import asyncio
import itertools
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.contract.types import Chunk, InferResponse, TextGeneration, TextGenerationResult
from deployments.replica.calls import Call, OnChunk
from deployments.replica.launcher_profile import LauncherProfile
from deployments.replica.socket_server import ReplicaSocketServer
from serve_app.dispatch.pending import Pending
from serve_app.dispatch.replica_pool import ReplicaPool
from serve_app.dispatch.socket_transport import SocketTransport


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:  # pytest's are too deep for the name of a socket
        yield Path(name)


numbers = itertools.count()


class Answering:
    """A replica that answers at once, or after `go`, and remembers what was taken back."""

    def __init__(self, path: Path) -> None:
        self.go = asyncio.Event()
        self.begun: list[str] = []
        self.taken_back: list[str] = []
        self.server = ReplicaSocketServer(path, self)

    async def respond(self, call: Call, on_chunk: OnChunk | None) -> InferResponse:
        assert isinstance(call.request, TextGeneration)
        self.begun.append(call.call_id)
        try:
            if call.request.prompt == "wait":
                await self.go.wait()
        except asyncio.CancelledError:
            self.taken_back.append(call.call_id)
            raise
        for index, letter in enumerate(call.request.prompt, 1):
            if on_chunk is not None:
                on_chunk(Chunk(letter, index))
        return TextGenerationResult(generated_text=call.request.prompt)


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
    known = ReplicaPool(lambda: table, LauncherProfile(folder), enough=2, lost=lost.extend)
    await until(lambda: known.choose("m"))
    line = known.choose("m")
    assert line is not None
    answered, waiting = pending("a"), pending("wait")
    for one in (answered, waiting):
        line.submit(one)
    await answered.response
    (end,) = replica.server.connections
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
    known = ReplicaPool(lambda: table, LauncherProfile(folder), enough=2, lost=lambda _: None)
    await until(lambda: known.choose("m"))
    asked = pending("a")
    known.choose("m").submit(asked)  # type: ignore[union-attr]  # just seen
    assert await asked.response == TextGenerationResult(generated_text="a")
    await alive.server.close()


async def test_a_model_stays_with_its_replica_until_that_is_busy(folder: Path) -> None:
    servers = [Answering(folder / f"{name}.sock") for name in "ab"]
    table = {Id("a"): None, Id("b"): None}
    known = ReplicaPool(lambda: table, LauncherProfile(folder), enough=2, lost=lambda _: None)
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
