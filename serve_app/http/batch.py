"""`POST /infer/batch`: many requests of any variants in one, answered in order, each with its own Error if it fails."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.contract import wire
from deployments.contract.errors import InvalidRequest, PayloadTooLarge, ServingError
from deployments.contract.types import InferRequest, InferResponse
from serve_app.http.disconnect import until_gone
from serve_app.http.runtime import Read, raising

NDJSON = "application/x-ndjson"
MAX_ITEMS = 1024
UNDER_WAY = 64
"""How many lines of a stream are answered at the same time."""

Answer = Callable[[Read, str], Awaitable[InferResponse]]
UnderWay = asyncio.Queue["asyncio.Task[InferResponse] | None"]
"""The answers in order, None after the last one."""


async def answer_list(body: bytes, answer: Answer) -> bytes:
    """A JSON list of answers to a JSON list of requests. Raises InvalidRequest where it is no list of requests."""
    items = await asyncio.to_thread(wire.parse_json, body)
    if not isinstance(items, list):
        raise InvalidRequest("expected a list of requests")
    if len(items) > MAX_ITEMS:
        raise InvalidRequest(f"a batch holds at most {MAX_ITEMS} requests, this one holds {len(items)}")
    answers = await asyncio.gather(*(answer(_reading(item), uuid.uuid4().hex) for item in items))
    return b"[" + b",".join(wire.encode(one, wire.JSON) for one in answers) + b"]"


class AnsweredLines(Response):
    """JSON lines in, JSON lines out: a line is answered while later ones are still being read."""

    def __init__(self, request: Request, limit_bytes: int, answer: Answer) -> None:
        self.request = request
        self.limit_bytes = limit_bytes
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", NDJSON.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        under_way: UnderWay = asyncio.Queue(UNDER_WAY)
        writing = asyncio.create_task(_write(under_way, send))
        reading = asyncio.create_task(self._read(under_way, writing))
        try:
            await asyncio.wait((writing,))
        finally:
            reading.cancel()
            writing.cancel()
            while not under_way.empty():
                if (left := under_way.get_nowait()) is not None:
                    left.cancel()
        if not writing.cancelled():
            writing.result()

    async def _read(self, under_way: UnderWay, writing: "asyncio.Task[None]") -> None:
        """Ends the writing when the client goes; while all places are taken that is not noticed."""
        try:
            async for line in self._lines():
                await under_way.put(asyncio.ensure_future(self.answer(self._reading_line(line), uuid.uuid4().hex)))
        except ServingError as failure:  # the body came too slowly
            await under_way.put(asyncio.ensure_future(self.answer(raising(failure), uuid.uuid4().hex)))
        except ClientDisconnect:
            writing.cancel()
            return
        await under_way.put(None)
        with contextlib.suppress(ServingError):
            await until_gone(self.request.receive)
            writing.cancel()

    async def _lines(self) -> AsyncIterator[bytes]:
        """Lines without their ends, empty ones left out. One that is too long comes cut, and is refused as such."""
        rest = b""
        async for chunk in self.request.stream():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in filter(None, map(bytes.strip, lines)):
                yield line
            if len(rest) > self.limit_bytes:
                yield rest
                return
        if rest.strip():
            yield rest.strip()

    def _reading_line(self, line: bytes) -> Read:
        async def read() -> InferRequest:
            if len(line) > self.limit_bytes:
                raise PayloadTooLarge(f"a line is longer than {self.limit_bytes} bytes")
            return wire.decode(line, wire.JSON, InferRequest)

        return read


async def _write(under_way: UnderWay, send: Send) -> None:
    while (answering := await under_way.get()) is not None:
        line = wire.encode(await answering, wire.JSON) + b"\n"
        await send({"type": "http.response.body", "body": line, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _reading(item: object) -> Read:
    async def read() -> InferRequest:
        return wire.from_object(item, InferRequest)

    return read
