"""`POST /infer/batch`: many requests of any variants in one, answered in order, each with its own Error if it fails."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments import wire
from deployments.errors import InvalidRequest, PayloadTooLarge, ServingError
from deployments.protocol import InferRequest, InferResponse

NDJSON = "application/x-ndjson"
MAX_ITEMS = 1024
UNDER_WAY = 64
"""How many lines of a stream are answered at the same time."""

Answer = Callable[[Callable[[], Awaitable[InferRequest]], str], Awaitable[InferResponse]]


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
        async for answer in self._answers():
            line = wire.encode(answer, wire.JSON) + b"\n"
            await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _answers(self) -> AsyncIterator[InferResponse]:
        under_way: asyncio.Queue[asyncio.Task[InferResponse] | None] = asyncio.Queue(UNDER_WAY)
        reader = asyncio.create_task(self._read_into(under_way))
        try:
            while (task := await under_way.get()) is not None:
                yield await task
        finally:
            reader.cancel()
            while not under_way.empty():
                if (left := under_way.get_nowait()) is not None:
                    left.cancel()

    async def _read_into(self, under_way: "asyncio.Queue[asyncio.Task[InferResponse] | None]") -> None:
        try:
            async for line in self._lines():
                await under_way.put(asyncio.ensure_future(self.answer(self._reading_line(line), uuid.uuid4().hex)))
        except ServingError as failure:  # the body came too slowly
            await under_way.put(asyncio.ensure_future(self.answer(_raising(failure), uuid.uuid4().hex)))
        await under_way.put(None)

    async def _lines(self) -> AsyncIterator[bytes]:
        """Lines without their ends, empty ones left out. One that is too long comes cut, and is refused as such."""
        rest = b""
        try:
            async for chunk in self.request.stream():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(None, map(bytes.strip, lines)):
                    yield line
                if len(rest) > self.limit_bytes:
                    yield rest
                    return
        except ClientDisconnect:
            return
        if rest.strip():
            yield rest.strip()

    def _reading_line(self, line: bytes) -> Callable[[], Awaitable[InferRequest]]:
        async def read() -> InferRequest:
            if len(line) > self.limit_bytes:
                raise PayloadTooLarge(f"a line is longer than {self.limit_bytes} bytes")
            return wire.decode(line, wire.JSON, InferRequest)

        return read


def _raising(failure: ServingError) -> Callable[[], Awaitable[InferRequest]]:
    async def read() -> InferRequest:
        raise failure

    return read


def _reading(item: object) -> Callable[[], Awaitable[InferRequest]]:
    async def read() -> InferRequest:
        return wire.from_object(item, InferRequest)

    return read
