"""A direct line between processes of one machine: calls one way, replies the other, many at once, on a Unix socket.

A handle call takes over a millisecond, whatever it carries (docs/dispatch.md). What is said on a line within one turn
of the event loop shares a frame, so the busier an end is, the fuller its frames.
"""

import asyncio
import logging
import pickle
import socket
from abc import abstractmethod
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

from deployments.replica.calls import Call, Reply

logger = logging.getLogger("model_runtime.line")

BACKLOG = 128
_LENGTH = 4
_BUFFER_BYTES = 64 * 1024

LEAVING = "leaving"
"""Said by a replica that takes no new calls."""


class FramedConnection(asyncio.BufferedProtocol):
    """One end: sends and receives lists of pickled items, each list behind its length, u32 little-endian.

    A picture may have many megabytes: it is written from where it lies, and received where it is read from.
    Both ends are this runtime: the socket lies in a folder that only its user can enter.
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._outgoing: list[object] = []
        self._incoming = bytearray(_BUFFER_BYTES)
        self._filled = 0

    @abstractmethod
    def received(self, item: Any) -> None: ...

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def send(self, item: object) -> None:
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
            # The calls go on by the handle, which can carry more kinds of things.
            logger.exception("something cannot be sent on a line")
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
        # What has begun moves to the front, and all of it has room.
        size = max(_BUFFER_BYTES, end - start)
        if start or size != len(incoming):
            begun = incoming[start:filled]
            if size != len(incoming):
                self._incoming = bytearray(size)
            self._incoming[: len(begun)] = begun
        self._filled = filled - start


def _frame_bytes(incoming: bytearray, start: int, filled: int) -> int:
    """Of the frame that begins at `start`, its length included; as far as that is known."""
    known = filled - start >= _LENGTH
    return _LENGTH + (int.from_bytes(incoming[start : start + _LENGTH], "little") if known else 0)


class _Pieces(list[bytes]):
    """A file for a Pickler: what it writes, large objects as they are and not copied."""

    write = list.append


Answer = Callable[[Call, Callable[[Reply], None]], Coroutine[Any, Any, None]]
"""Says replies to a call, the last one a response; then it ends. Cancelled, it says so too."""


class _ReplicaConnection(FramedConnection):
    """Receives a Call, or the id of one that is taken back. Sends (call id, Reply), or LEAVING."""

    def __init__(self, server: "ReplicaSocketServer") -> None:
        super().__init__()
        self._server = server
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.ends.add(self)

    def received(self, item: Call | str) -> None:
        if isinstance(item, str):
            if (task := self._tasks.get(item)) is not None:
                task.cancel()
            return
        call_id = item.call_id
        answer = self._server.answer(item, lambda reply: self.send((call_id, reply)))
        self._tasks[call_id] = task = asyncio.get_running_loop().create_task(answer)
        task.add_done_callback(lambda _: self._tasks.pop(call_id, None))

    def connection_lost(self, failure: Exception | None) -> None:
        self._server.ends.discard(self)
        for task in list(self._tasks.values()):
            task.cancel()

    async def leave(self) -> None:
        self.send(LEAVING)
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))
        assert self.transport is not None
        self.transport.close()


class ReplicaSocketServer:
    """A replica's side: whoever connects to `path` has its calls answered, until `close`."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.answer = answer
        self.ends: set[_ReplicaConnection] = set()
        self._path = path
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(BACKLOG)
        self._starting = asyncio.get_running_loop().create_task(self._start())

    async def _start(self) -> asyncio.Server:
        return await asyncio.get_running_loop().create_unix_server(
            lambda: _ReplicaConnection(self), sock=self._listener
        )

    async def close(self) -> None:
        """Takes no new calls; ends once those under way are answered."""
        (await self._starting).close()
        self._path.unlink(missing_ok=True)
        await asyncio.gather(*(end.leave() for end in list(self.ends)))
