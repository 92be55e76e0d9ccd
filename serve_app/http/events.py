"""Server-sent events: a stream of replies as one HTTP response, and the union's own form of it."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments import wire
from deployments.calls import Reply
from deployments.protocol import InferResponse
from serve_app.http.runtime import Replies

HOLD_S = 10.0
"""How long the status waits for a first reply, so that a failure before it has a status of its own."""
KEEP_ALIVE_S = 15.0
STALLED_S = 60.0
"""How long a client may leave unread what was sent."""
_COMMENT = b": still at it\n\n"

Said = TypeVar("Said")
Events = AsyncGenerator[bytes, None]


async def opened(replies: AsyncGenerator[Said, None]) -> tuple[Said | None, AsyncGenerator[Said, None]]:
    """The first reply, None where it is not there after a long while, and all replies, the first among them."""
    first = asyncio.ensure_future(anext(replies))
    try:
        await asyncio.wait((first,), timeout=HOLD_S)
    except asyncio.CancelledError:
        first.cancel()
        raise
    return first.result() if first.done() else None, _all(first, replies)


async def _all(first: "asyncio.Future[Said]", replies: AsyncGenerator[Said, None]) -> AsyncGenerator[Said, None]:
    async with aclosing(replies):
        yield await first
        async for reply in replies:
            yield reply


async def union_events(replies: Replies) -> Events:
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
            works = (self._write(outlet), outlet.keep_alive(), _until_gone(receive))
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


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
