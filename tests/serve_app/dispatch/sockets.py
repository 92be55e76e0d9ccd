"""A folder for Unix sockets, and a replica behind one whose answers the test holds back."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployments.contract.chunk import Chunk
from deployments.contract.types import InferResponse, TextGeneration, TextGenerationResult
from deployments.replica.calls import Call, Holdings, OnChunk, OnNews
from deployments.replica.handshake import ClusterNetwork
from deployments.replica.socket_server import ReplicaSocketServer
from serve_app.dispatch.connections import Connections, SocketTransport
from tests.support.until import turns, until


@contextmanager
def socket_folder() -> Iterator[Path]:
    """pytest's own folders are too deep for the name of a socket."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def open_in(connections: Connections) -> list[SocketTransport]:
    """Those that take calls."""
    return [socket for socket in connections.sockets.values() if socket is not None and socket.open]


class SocketReplica:
    """Answers with the prompt, a letter a chunk, the prompt "wait" only after `go`. Keeps the ids of its calls."""

    def __init__(self, path: Path | None, network: ClusterNetwork | None = None) -> None:
        self.go = asyncio.Event()
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.held = Holdings()
        self.server = ReplicaSocketServer(self, path, network)

    def holdings(self) -> Holdings:
        return self.held

    async def respond(self, call: Call, on_chunk: OnChunk | None, on_news: OnNews) -> InferResponse:
        assert isinstance(call.request, TextGeneration)
        self.begun.append(call.call_id)
        try:
            if call.request.prompt == "wait":
                await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.append(call.call_id)
        for index, letter in enumerate(call.request.prompt, 1):
            if on_chunk is not None:
                on_chunk(Chunk(letter, index))
        return TextGenerationResult(generated_text=call.request.prompt)

    async def drop_connections(self) -> None:
        await until(lambda: self.server.connections)
        for connection in self.server.connections:
            assert connection.transport is not None
            connection.transport.abort()

    async def close(self) -> None:
        """Answers what is held back; returns when both ends of every connection are closed."""
        self.go.set()
        await self.server.close()
        await until(lambda: not self.server.connections)
        await turns(5)
