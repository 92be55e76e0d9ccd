"""Server-sent events: a stream of events as one HTTP response, and the contract's own events. Knows no routes."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Generic, Self, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.contract import wire
from deployments.contract.types import InferResponse
from deployments.replica.calls import Reply
from serve_app.http.requests import wait_for_disconnect

FIRST_REPLY_WAIT_S = 10.0
"""How long the status line waits for the first reply, so that an error before it has its own status. Afterwards the
stream starts with status 200."""
KEEP_ALIVE_S = 15.0
WRITE_TIMEOUT_S = 60.0
"""How long a client may read nothing."""
_COMMENT = b": still at it\n\n"

Item = TypeVar("Item")
Events = AsyncGenerator[bytes, None]


class StartedStream(Generic[Item]):
    """A stream and its first reply, None if that has not arrived within FIRST_REPLY_WAIT_S."""

    def __init__(self, first: "asyncio.Future[Item]", rest: AsyncGenerator[Item, None]) -> None:
        self.first = first.result() if first.done() else None
        self._next: asyncio.Future[Item] | None = first
        self._rest = rest

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        if self._next is None:
            return await anext(self._rest)
        first, self._next = self._next, None
        return await first

    async def aclose(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait((self._next,))
        await self._rest.aclose()


async def started(replies: AsyncGenerator[Item, None]) -> StartedStream[Item]:
    """Waits for the first reply. Cancelling it cancels the request."""
    first = asyncio.ensure_future(anext(replies))
    try:
        await asyncio.wait((first,), timeout=FIRST_REPLY_WAIT_S)
    except asyncio.CancelledError:
        first.cancel()
        raise
    return StartedStream(first, replies)


async def streamed(
    replies: AsyncGenerator[Item, None],
    events: Callable[[StartedStream[Item]], Events],
    refusal: Callable[[Item], Response | None],
) -> Response:
    """The events of the replies; or, where the first reply is an error, the response that `refusal` makes of it."""
    stream = await started(replies)
    if stream.first is None or (refused := refusal(stream.first)) is None:
        return EventStream(events(stream))
    await stream.aclose()
    return refused


async def union_events(replies: StartedStream[Reply]) -> Events:
    """`event: token` for each chunk, or `event: segment` for each segment of one, then `event: result` with the whole
    response."""
    async with aclosing(replies):
        async for reply in replies:
            yield _event(reply)


def _event(reply: Reply) -> bytes:
    if isinstance(reply, InferResponse):
        return b"event: result\ndata: " + data(wire.to_object(reply)) + b"\n\n"
    if reply.segments:
        return b"".join(b"event: segment\ndata: " + data(segment.model_dump()) + b"\n\n" for segment in reply.segments)
    token: dict[str, object] = {"text": reply.text, "index": reply.index}
    if reply.logprobs:
        token["logprobs"] = [logprob.model_dump() for logprob in reply.logprobs]
    if reply.prompt_logprobs:
        token["prompt_logprobs"] = [logprob.model_dump(exclude_none=True) for logprob in reply.prompt_logprobs]
    return b"event: token\ndata: " + data(token) + b"\n\n"


def data(value: object) -> bytes:
    """JSON on one line, also for clients that read U+0085, U+2028 and U+2029 as line ends."""
    line = _dump(value)
    return (line if line.isascii() else line.translate(_LINE_ENDS)).encode()


_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_dump = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


STREAM_HEADERS = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}
"""So that no proxy keeps the parts of a stream back: to compress them, or to send them together (nginx)."""


class EventStream(Response):
    """Sends events as they arrive, and comments while none does. Ends when the client disconnects or stops reading."""

    def __init__(self, events: Events) -> None:
        super().__init__(None, 200, STREAM_HEADERS, "text/event-stream")
        del self.headers["content-length"]
        self.events = events
        self._writing = asyncio.Lock()
        self._last_write_at = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.events):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            works = (self._send_events(send), self._keep_alive(send), wait_for_disconnect(receive))
            tasks = [asyncio.create_task(work) for work in works]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                # So that `aclosing` finds no task inside the generator.
                await asyncio.wait(tasks)
        for task in tasks:
            failure = None if task.cancelled() else task.exception()
            if failure is not None and not isinstance(failure, OSError):  # TimeoutError: the client does not read.
                raise failure

    async def _send_events(self, send: Send) -> None:
        async for event in self.events:
            await self._write(send, event)
        await self._write(send, b"", last=True)

    async def _keep_alive(self, send: Send) -> None:
        while True:
            silence = time.monotonic() - self._last_write_at
            if silence >= KEEP_ALIVE_S:
                await self._write(send, _COMMENT)
                silence = 0.0
            await asyncio.sleep(KEEP_ALIVE_S - silence)

    async def _write(self, send: Send, body: bytes, last: bool = False) -> None:
        """Raises TimeoutError if the client does not read."""
        async with self._writing, asyncio.timeout(WRITE_TIMEOUT_S):
            await send({"type": "http.response.body", "body": body, "more_body": not last})
            self._last_write_at = time.monotonic()
