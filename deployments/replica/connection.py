"""A direct connection between an ingress and a replica: calls one way, replies the other. Both of its ends.

A call by Serve's handle takes over a millisecond, whatever it carries (docs/dispatch.md). What an end writes within one
turn of its event loop shares a frame, so the busier an end is, the fuller its frames.
"""

import asyncio
import logging
import os
import pickle
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

from deployments.contract.chunk import Chunk
from deployments.contract.types import InferResponse
from deployments.replica.calls import Call, Holdings, News, OnChunk, OnNews, ReplicaLost, Reply

logger = logging.getLogger("model_runtime.dispatch")

_LENGTH = 4
_BUFFER_BYTES = 64 * 1024
_SMALL_BYTES = 16 * 1024
"""Of a frame that is copied into one piece and written by itself."""

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
        self._descriptor: int | None = None
        self._outgoing: list[object] = []
        self._incoming = bytearray(_BUFFER_BYTES)
        self._filled = 0

    @abstractmethod
    def received(self, item: Any) -> None: ...

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's does not derive from asyncio.Transport
        socket = transport.get_extra_info("socket")
        self._descriptor = socket.fileno() if socket else None

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
        size = sum(map(len, frame))
        length = size.to_bytes(_LENGTH, "little")
        if size > _SMALL_BYTES or self._descriptor is None or self.transport.get_write_buffer_size():
            self.transport.writelines((length, *frame))
        else:
            self._write_now(b"".join((length, *frame)))

    def _write_now(self, data: bytes) -> None:
        """uvloop's transport keeps Python's lock while it writes, and whoever is woken by it may have this core first:
        a model's step, which needs the lock, would wait for both."""
        assert self.transport is not None
        assert self._descriptor is not None
        try:
            written = os.write(self._descriptor, data)
        except OSError:  # The socket is full, or the transport finds out what it is.
            written = 0
        if written < len(data):
            self.transport.write(data[written:])

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


class PendingCall(Protocol):
    """A call whose response an ingress awaits."""

    call: Call
    arrived: bool
    """Whether a replica has received it."""
    replica: str
    """The last one it was sent to, by its id in Serve."""
    response: "asyncio.Future[InferResponse]"

    def deliver(self, reply: Reply | News) -> None: ...

    def fail(self, cause: Exception) -> None: ...


class IngressConnection(FramedConnection):
    """The ingress's end: writes a Call, or the id of a call that is cancelled.

    `replica`: its id in Serve. `lost` is called when the connection has ended, and returns what the replica reported of
    a crash.
    """

    def __init__(self, replica: str, lost: "Callable[[IngressConnection], str]") -> None:
        super().__init__()
        self.replica = replica
        self.open = True
        """Whether the replica takes new calls."""
        self.pending: dict[str, PendingCall] = {}
        self._lost = lost

    @property
    def under_way(self) -> int:
        return len(self.pending)

    async def send(self, pending: PendingCall) -> InferResponse:
        """Raises ReplicaLost. Cancelled, it cancels the call at its replica."""
        call_id = pending.call.call_id
        pending.arrived = True
        pending.replica = self.replica
        self.pending[call_id] = pending
        self.write(pending.call)
        try:
            return await pending.response
        finally:
            if self.pending.pop(call_id, None) is not None:  # No response came, and the connection is there.
                self.write(call_id)

    def received(self, item: tuple[str, Reply | News] | Holdings | str) -> None:
        if isinstance(item, str):  # LEAVING
            self.open = False
            return
        if isinstance(item, Holdings):
            self.update_holdings(item)
            return
        call_id, reply = item
        ended = isinstance(reply, InferResponse)
        pending = self.pending.pop(call_id, None) if ended else self.pending.get(call_id)
        if pending is not None:
            pending.deliver(reply)

    def update_holdings(self, holdings: Holdings) -> None:
        """What the replica holds now."""

    def connection_lost(self, failure: Exception | None) -> None:
        crash = self._lost(self)
        self.open = False
        pendings, self.pending = self.pending, {}
        for pending in pendings.values():
            pending.fail(ReplicaLost(crash))


class Responder(Protocol):
    """The replica behind the connections."""

    async def respond(self, call: Call, on_chunk: OnChunk | None, on_news: OnNews) -> InferResponse:
        """Never raises, not even when cancelled."""

    def holdings(self) -> Holdings:
        """What it reports to its ingresses."""


class ReplicaConnection(FramedConnection):
    """The replica's end: writes (call id, Reply or News), its Holdings, or LEAVING. In `connections` while it is
    connected."""

    def __init__(self, replica: Responder, connections: "set[ReplicaConnection]") -> None:
        super().__init__()
        self._replica = replica
        self._connections = connections
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connections.add(self)
        self.write(self._replica.holdings())

    def received(self, item: Call | str) -> None:
        if isinstance(item, Call):
            self._tasks[item.call_id] = asyncio.get_running_loop().create_task(self._respond(item))
        # Popped here: a task that is cancelled before its first step never runs its own `finally`.
        elif (task := self._tasks.pop(item, None)) is not None:
            task.cancel()

    async def _respond(self, call: Call) -> None:
        deliver = partial(self._write_news, call.call_id)
        try:
            response = await self._replica.respond(call, deliver if call.stream else None, deliver)
            self.write((call.call_id, response))
        finally:
            self._tasks.pop(call.call_id, None)

    def _write_news(self, call_id: str, news: Chunk | News) -> None:
        self.write((call_id, news))

    def connection_lost(self, failure: Exception | None) -> None:
        self._connections.discard(self)
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
