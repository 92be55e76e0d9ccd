"""A direct connection between an ingress and a replica: calls one way, replies the other.

On one machine it is a Unix socket; between nodes TCP, once both ends have proven the cluster's secret (`handshake`).

`FramedConnection` is either end, `ReplicaSocketServer` the replica's side. A call by Serve's handle takes over a
millisecond, whatever it carries (docs/dispatch.md). What an end writes within one turn of its event loop shares a
frame, so the busier an end is, the fuller its frames.
"""

import asyncio
import logging
import pickle
import socket
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

from deployments.contract.chunk import Chunk
from deployments.contract.types import InferResponse
from deployments.replica.calls import Call, OnChunk
from deployments.replica.handshake import ClusterNetwork, Doorkeeper

logger = logging.getLogger("model_runtime.dispatch")

BACKLOG = 128
_LENGTH = 4
_BUFFER_BYTES = 64 * 1024

LEAVING = "leaving"
"""Sent by a replica that takes no new calls."""


class FramedConnection(asyncio.BufferedProtocol):
    """One end: writes and receives lists of pickled items, each list behind its length, u32 little-endian.

    An image may have many megabytes: it is written from where it lies, and received where it is unpickled from.
    Both ends are this runtime: a Unix socket lies in a folder that only its user can enter, and TCP begins with a
    handshake.
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._outgoing: list[object] = []
        self._incoming = bytearray(_BUFFER_BYTES)
        self._filled = 0

    @abstractmethod
    def received(self, item: Any) -> None: ...

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's does not derive from asyncio.Transport

    def write(self, item: object) -> None:
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.append(item)

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if self.transport is None or self.transport.is_closing():
            return
        frame = _Pieces()
        try:
            pickle.Pickler(frame, pickle.HIGHEST_PROTOCOL).dump(outgoing)
        except Exception:
            # The calls are repeated by the handle, whose pickle takes more kinds of objects.
            logger.exception("an object cannot be pickled")
            self.transport.abort()
            return
        self.transport.writelines((sum(map(len, frame)).to_bytes(_LENGTH, "little"), *frame))

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._incoming)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        incoming, filled = self._incoming, self._filled + nbytes
        start = 0
        while filled >= (end := start + _frame_bytes(incoming, start, filled)):
            items = pickle.loads(memoryview(incoming)[start + _LENGTH : end])
            start = end
            for item in items:
                self.received(item)
        # `end` is that of a frame of which a part is here. The part moves to the front of a buffer that holds it all.
        size = max(_BUFFER_BYTES, end - start)
        if start or size != len(incoming):
            begun = incoming[start:filled]
            if size != len(incoming):
                self._incoming = bytearray(size)
            self._incoming[: len(begun)] = begun
        self._filled = filled - start


def _frame_bytes(incoming: bytearray, start: int, filled: int) -> int:
    """Of the frame that begins at `start`, its length included; of the length alone where that is not complete."""
    known = filled - start >= _LENGTH
    return _LENGTH + (int.from_bytes(incoming[start : start + _LENGTH], "little") if known else 0)


class _Pieces(list[bytes]):
    """A file for a Pickler: it keeps what is written, and does not copy large objects."""

    write = list.append


class Responder(Protocol):
    """The replica behind the server."""

    async def respond(self, call: Call, on_chunk: OnChunk | None) -> InferResponse:
        """Never raises, not even when cancelled."""


class _ReplicaConnection(FramedConnection):
    """Receives a Call, or the id of a call that is cancelled. Writes (call id, Reply), or LEAVING."""

    def __init__(self, server: "ReplicaSocketServer") -> None:
        super().__init__()
        self._server = server
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.connections.add(self)

    def received(self, item: Call | str) -> None:
        if isinstance(item, Call):
            self._tasks[item.call_id] = asyncio.get_running_loop().create_task(self._respond(item))
        # Popped here: a task that is cancelled before its first step never runs its own `finally`.
        elif (task := self._tasks.pop(item, None)) is not None:
            task.cancel()

    async def _respond(self, call: Call) -> None:
        on_chunk = partial(self._write_chunk, call.call_id) if call.stream else None
        try:
            self.write((call.call_id, await self._server.replica.respond(call, on_chunk)))
        finally:
            self._tasks.pop(call.call_id, None)

    def _write_chunk(self, call_id: str, chunk: Chunk) -> None:
        self.write((call_id, chunk))

    def connection_lost(self, failure: Exception | None) -> None:
        self._server.connections.discard(self)
        for task in self._tasks.values():
            task.cancel()
        self._tasks = {}

    async def leave(self) -> None:
        self.write(LEAVING)
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))
        assert self.transport is not None
        self._flush()  # What was written in this turn of the loop; a transport that closes takes nothing more.
        self.transport.close()


class ReplicaSocketServer:
    """A replica's side: answers the calls of every connection until `close`.

    It listens on the Unix socket `path`, and at a port of the node for those that know the cluster's secret.
    """

    def __init__(self, replica: Responder, path: Path | None, network: ClusterNetwork | None = None) -> None:
        self.replica = replica
        self.connections: set[_ReplicaConnection] = set()
        self.address: tuple[str, int] | None = None
        """Where other nodes reach it."""
        self._path = path
        self._door = Doorkeeper(network.secret, self._connection) if network else None
        self._listeners: list[tuple[socket.socket, Callable[[], asyncio.BaseProtocol]]] = []
        if path is not None:
            self._listeners.append((_unix_listener(path), self._connection))
        if network is not None and self._door is not None:
            listener = _tcp_listener(network.host)
            self.address = (network.host, listener.getsockname()[1])
            self._listeners.append((listener, self._door))
        self._starting = asyncio.get_running_loop().create_task(self._start())

    def _connection(self) -> "_ReplicaConnection":
        return _ReplicaConnection(self)

    async def _start(self) -> list[asyncio.Server]:
        loop = asyncio.get_running_loop()
        servers = []
        for listener, protocol in self._listeners:
            make = loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
            servers.append(await make(protocol, sock=listener))
        return servers

    async def close(self) -> None:
        """Takes no new calls; ends once those under way are answered."""
        for server in await self._starting:
            server.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        if self._door is not None:
            self._door.close()
        await asyncio.gather(*(connection.leave() for connection in list(self.connections)))


def _unix_listener(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(BACKLOG)
    return listener


def _tcp_listener(host: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.bind((host, 0))
    listener.listen(BACKLOG)
    return listener
