"""A runtime's HTTP routes without a runtime: a real server in a thread, which answers as a test prescribes."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from deployments.contract import wire
from deployments.contract.errors import ServingError
from deployments.contract.types import Error, InferRequest, InferResponse, TextGeneration, TextGenerationResult
from tests.support.ports import free_port
from tests.support.until import wait_until

RESULT = TextGenerationResult(generated_text="abc", model_id="m", finish_reason="length")
STALLED = "stall"
"""A prompt that is never answered; a stream of it stops after its first token."""


@dataclass
class Answering:
    """What the server saw, and what it answers."""

    url: str = ""
    answer: InferResponse = RESULT
    script: Callable[[InferRequest], InferResponse] | None = None
    """Answers instead of `answer`."""
    stalls: bool = True
    groups: list[int] = field(default_factory=list)
    """How many lines each request to /infer/batch had."""
    lines_answered: int | None = None
    """Of each of them; all, unless it is set."""
    arrived: threading.Event = field(default_factory=threading.Event)
    """A stalled request is under way."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    """The client of a stalled request has disconnected."""

    async def infer(self, request: Request) -> Response:
        media_type = request.headers["content-type"]
        asked = wire.decode(await request.body(), media_type, InferRequest)
        if isinstance(asked, TextGeneration) and asked.stream:
            return StreamingResponse(self._events(asked), media_type="text/event-stream")
        if isinstance(asked, TextGeneration) and asked.prompt == STALLED and self.stalls:
            self.arrived.set()
            while not await request.is_disconnected():
                await asyncio.sleep(0.01)
            self.cancelled.set()
        answer = self.script(asked) if self.script else self.answer
        return Response(wire.encode(answer, media_type), media_type=media_type)

    async def infer_batch(self, request: Request) -> Response:
        lines = (await request.body()).split(b"\n")
        self.groups.append(len(lines))
        answers = []
        for line in lines:
            try:
                asked = wire.decode(line, wire.JSON, InferRequest)
            except ServingError as failure:
                answers.append(wire.encode(Error.of(failure), wire.JSON))
                continue
            answers.append(wire.encode(self.script(asked) if self.script else self.answer, wire.JSON))
        return Response(b"\n".join(answers[: self.lines_answered]), media_type="application/x-ndjson")

    async def _events(self, asked: TextGeneration) -> AsyncIterator[bytes]:
        try:
            for index in range(1, asked.max_tokens + 1):
                yield b'event: token\ndata: {"text": "a", "index": %d}\n\n' % index
                if asked.prompt == STALLED:
                    self.arrived.set()
                    await asyncio.Event().wait()
            yield b"event: result\ndata: " + json.dumps(wire.to_object(self.answer)).encode() + b"\n\n"
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


async def _models(request: Request) -> Response:
    return JSONResponse({"models": []})


@contextmanager
def answering() -> Iterator[Answering]:
    state = Answering()
    app = Starlette(
        routes=[
            Route("/infer", state.infer, methods=["POST"]),
            Route("/infer/batch", state.infer_batch, methods=["POST"]),
            Route("/models", _models),
        ]
    )
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, ws="none", lifespan="off", log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    state.url = f"http://127.0.0.1:{port}"
    try:
        yield state
    finally:
        server.should_exit = server.force_exit = True
        thread.join()
