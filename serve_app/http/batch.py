"""`POST /infer/batch`: many requests in one body, answered in order. A request that fails gets its own `Error`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.contract import wire
from deployments.contract.errors import InvalidRequest, PayloadTooLarge, ServingError
from deployments.contract.types import InferRequest, InferResponse
from serve_app.access.caller import RequestContext
from serve_app.http.interfaces import Asked, Runtime
from serve_app.http.requests import wait_for_disconnect
from serve_app.http.sse import STREAM_HEADERS

NDJSON = "application/x-ndjson"
MAX_ITEMS = 1024
MAX_CONCURRENT_LINES = 64
"""Of one body of JSON lines. More of them would fill the queues before other callers' requests."""

WRITES_APART_S = 0.02
"""Lines that are answered within it are written together, where later ones are known: each write costs HAProxy and the
client as much as the ingress."""

Answers = asyncio.Queue["asyncio.Task[InferResponse] | None"]
"""The answers of lines in order, then None."""


async def answer_list(items: object, runtime: Runtime, context: RequestContext) -> bytes:
    """The JSON list of responses to a list of requests. Raises InvalidRequest if `items` is no such list."""
    if not isinstance(items, list):
        raise InvalidRequest("expected a list of requests")
    if len(items) > MAX_ITEMS:
        raise InvalidRequest(f"a batch holds at most {MAX_ITEMS} requests, this one holds {len(items)}")

    decoders = (partial(wire.from_object, item, InferRequest) for item in items)
    answers = await asyncio.gather(
        *(_answer(runtime, context.of(number), decode) for number, decode in enumerate(decoders))
    )
    return b"[" + b",".join(wire.encode(one, wire.JSON) for one in answers) + b"]"


@dataclass(eq=False)
class JsonLinesResponse(Response):
    """JSON lines in and out. A line is answered while later ones are still being read."""

    request: Request
    limit_bytes: int
    runtime: Runtime
    context: RequestContext

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(STREAM_HEADERS | {"content-type": NDJSON}).raw
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        answers: Answers = asyncio.Queue(MAX_CONCURRENT_LINES)
        writing = asyncio.create_task(_write(answers, send))
        reading = asyncio.create_task(self._read(answers, writing))
        try:
            await asyncio.wait((writing,))
        finally:
            reading.cancel()
            writing.cancel()
            while not answers.empty():
                if (answer := answers.get_nowait()) is not None:
                    answer.cancel()
        if not writing.cancelled():
            writing.result()

    async def _read(self, answers: Answers, writing: "asyncio.Task[None]") -> None:
        """Starts the answer of each line. Cancels `writing` if the client disconnects.

        While the queue is full nothing is received, so a disconnect is noticed only once it takes more.
        """
        number = 0
        try:
            async for line in self._lines():
                answer = _answer(self.runtime, self.context.of(number), partial(self._decoded, line))
                await answers.put(asyncio.create_task(answer))
                number += 1
        except ServingError as failure:  # RequestTimeout: the body came too slowly.
            answer = self.runtime.answer(failure, self.context.of(number))
            await answers.put(asyncio.create_task(answer))
        except ClientDisconnect:
            writing.cancel()
            return
        await answers.put(None)
        with contextlib.suppress(ServingError):
            await wait_for_disconnect(self.request.receive)
            writing.cancel()

    async def _lines(self) -> AsyncIterator[bytes]:
        """Lines without their ends; empty ones are left out. A line beyond the limit comes cut, as the last one."""
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

    def _decoded(self, line: bytes) -> InferRequest:
        if len(line) > self.limit_bytes:
            raise PayloadTooLarge(f"a line is longer than {self.limit_bytes} bytes")
        return wire.decode(line, wire.JSON, InferRequest)


async def _write(answers: Answers, send: Send) -> None:
    clock, lines, write_at = asyncio.get_running_loop().time, b"", 0.0
    while (answer := await answers.get()) is not None:
        if lines and not answer.done():
            await asyncio.sleep(max(0.0, write_at - clock()))
            if not answer.done():
                await send({"type": "http.response.body", "body": lines, "more_body": True})
                lines, write_at = b"", clock() + WRITES_APART_S
        lines += wire.encode(await answer, wire.JSON) + b"\n"
        if answers.empty():  # Its client may wait for the answer before it sends the next line.
            await send({"type": "http.response.body", "body": lines, "more_body": True})
            lines = b""
    await send({"type": "http.response.body", "body": lines, "more_body": False})


async def _answer(runtime: Runtime, context: RequestContext, decode: Callable[[], InferRequest]) -> InferResponse:
    """The answer to what `decode` returns, or to the ServingError that it raises."""
    try:
        asked: Asked = decode()
    except ServingError as failure:
        asked = failure
    return await runtime.answer(asked, context)
