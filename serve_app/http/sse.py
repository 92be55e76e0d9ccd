"""Server-sent events: a stream of replies as one HTTP response, and the union's own form of it."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Generic, Self, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.contract import wire
from deployments.contract.types import InferResponse
from deployments.replica.calls import Reply
from serve_app.http.disconnect import until_gone

HOLD_S = 10.0
"""How long the status waits for a first reply, so that a failure before it has a status of its own."""
KEEP_ALIVE_S = 15.0
STALLED_S = 60.0
"""How long a client may leave unread what was sent."""
_COMMENT = b": still at it\n\n"

Said = TypeVar("Said")
Events = AsyncGenerator[bytes, None]


class Opened(Generic[Said]):
    """Replies of which the first has come, or is still to come after a long while."""

    def __init__(self, first: "asyncio.Future[Said]", rest: AsyncGenerator[Said, None]) -> None:
        self.first = first.result() if first.done() else None
        self._next: asyncio.Future[Said] | None = first
        self._rest = rest

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Said:
        if self._next is None:
            return await anext(self._rest)
        first, self._next = self._next, None
        return await first

    async def aclose(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait((self._next,))
        await self._rest.aclose()


async def opened(replies: AsyncGenerator[Said, None]) -> Opened[Said]:
    """Waits for the first reply. Cancelled meanwhile, it takes the request back."""
    first = asyncio.ensure_future(anext(replies))
    try:
        await asyncio.wait((first,), timeout=HOLD_S)
    except asyncio.CancelledError:
        first.cancel()
        raise
    return Opened(first, replies)


async def union_events(replies: Opened[Reply]) -> Events:
    """`event: token` for new text, closed by `event: result` with the whole response."""
    async with aclosing(replies):
        async for reply in replies:
            yield _event(reply)


def _event(reply: Reply) -> bytes:
    if isinstance(reply, InferResponse):
        return b"event: result\ndata: " + data(wire.to_object(reply)) + b"\n\n"
    token: dict[str, object] = {"text": reply.text, "index": reply.index}
    if reply.logprobs:
        token["logprobs"] = [logprob.model_dump() for logprob in reply.logprobs]
    return b"event: token\ndata: " + data(token) + b"\n\n"


def data(value: object) -> bytes:
    """JSON on one line, also for readers that take other characters than CR and LF for line ends."""
    line = _dump(value)
    return (line if line.isascii() else line.translate(_LINE_ENDS)).encode()


_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_dump = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class EventStream(Response):
    """Sends events as they come, comments in long silences; ends them when the client goes or stops reading."""

    def __init__(self, events: Events, headers: dict[str, str] | None = None) -> None:
        super().__init__(None, 200, {"cache-control": "no-cache"} | (headers or {}), "text/event-stream")
        del self.headers["content-length"]
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outlet = _Outlet(send)
        async with aclosing(self.events):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            works = (self._write(outlet), outlet.keep_alive(), until_gone(receive))
            tasks = [asyncio.create_task(work) for work in works]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                # Until the generator has let go of its request.
                await asyncio.wait(tasks)
        failures = [task.exception() for task in tasks if not task.cancelled()]
        for failure in failures:
            if failure is not None and not isinstance(failure, OSError):  # which is a client that does not read
                raise failure

    async def _write(self, outlet: "_Outlet") -> None:
        async for event in self.events:
            await outlet.put(event)
        await outlet.put(b"", last=True)


class _Outlet:
    """One response's body: one writer at a time. Raises TimeoutError where the client does not read."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._lock = asyncio.Lock()
        self._written = time.monotonic()

    async def put(self, body: bytes, last: bool = False) -> None:
        async with self._lock, asyncio.timeout(STALLED_S):
            await self._send({"type": "http.response.body", "body": body, "more_body": not last})
            self._written = time.monotonic()

    async def keep_alive(self) -> None:
        while True:
            silence = time.monotonic() - self._written
            if silence >= KEEP_ALIVE_S:
                await self.put(_COMMENT)
                silence = 0.0
            await asyncio.sleep(KEEP_ALIVE_S - silence)
