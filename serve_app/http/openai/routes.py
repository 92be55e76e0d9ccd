"""The routes below /v1."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.contract import wire
from deployments.contract.errors import Cancelled, Internal, ModelNotFound, ServingError, quoted
from deployments.contract.status import ModelStatus
from deployments.contract.types import Chunk, Error, InferResponse, TextGeneration, TextGenerationResult
from deployments.replica.calls import Reply
from serve_app.access.caller import RequestContext
from serve_app.config.config import IngressSettings
from serve_app.http.disconnect import cancel_on_disconnect
from serve_app.http.interfaces import MountedApi, Operations, Runtime
from serve_app.http.openai.errors import InvalidField, error_object, error_reply
from serve_app.http.openai.openapi import openai_paths
from serve_app.http.openai.requests import Body, ChatBody, CompletionBody, body_of
from serve_app.http.openai.responses import Chat, Completion, Shape
from serve_app.http.requests import context_of, read_json
from serve_app.http.sse import Events, EventStream, StartedStream, data, started

FAMILY = "text_generation"
LARGE_BODY_BYTES = 256 * 1024

Numbered = tuple[int, Reply]
"""A reply and its choice's number."""


def openai_api(settings: IngressSettings, runtime: Runtime, operations: Operations) -> MountedApi:
    routes = _OpenAIRoutes(int(settings.max_body_mb * 2**20), runtime, operations).routes()
    return MountedApi("/v1", routes, error_reply, openai_paths)


class _OpenAIRoutes:
    def __init__(self, limit_bytes: int, runtime: Runtime, operations: Operations) -> None:
        self.runtime = runtime
        self.operations = operations
        self.limit_bytes = limit_bytes
        self.since = int(time.time())

    def routes(self) -> list[Route]:
        return [
            Route("/v1/models", self.models),
            Route("/v1/models/{model_id:path}", self.model),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]

    async def models(self, request: Request) -> Response:
        listed = [self._model(status.model_id) for status in await self.operations.models() if status.family == FAMILY]
        return JSONResponse({"object": "list", "data": listed})

    async def model(self, request: Request) -> Response:
        asked = request.path_params["model_id"]
        for status in await self.operations.models():
            if status.family == FAMILY and asked in _names(status):
                return JSONResponse(self._model(asked))
        raise ModelNotFound(f"there is no text model {quoted(asked)}")

    async def completions(self, request: Request) -> Response:
        context = context_of(request)
        try:
            body = body_of(CompletionBody, await self._json(request))
            asked = body.requests()
        except ServingError as cause:
            return await self._refused(cause, context)
        shape = Completion(f"cmpl-{context.request_id}", int(time.time()), body.model, body.choices, body.echoes())
        return await cancel_on_disconnect(request, self._answered(body, asked, shape, context))

    async def chat(self, request: Request) -> Response:
        context = context_of(request)
        try:
            body = body_of(ChatBody, await self._json(request))
            asked = body.requests()
        except ServingError as cause:
            return await self._refused(cause, context)
        shape = Chat(f"chatcmpl-{context.request_id}", int(time.time()), body.model, body.choices)
        return await cancel_on_disconnect(request, self._answered(body, asked, shape, context))

    def _model(self, model_id: str) -> dict[str, object]:
        return {"id": model_id, "object": "model", "created": self.since, "owned_by": "model-runtime"}

    async def _json(self, request: Request) -> object:
        body = await read_json(request, self.limit_bytes)
        if len(body) > LARGE_BODY_BYTES:
            return await asyncio.to_thread(wire.parse_json, body)
        return wire.parse_json(body)

    async def _refused(self, cause: ServingError, context: RequestContext) -> Response:
        error = await self.runtime.answer(cause, context)
        assert isinstance(error, Error)
        return error_reply(error, cause.param if isinstance(cause, InvalidField) else None)

    async def _answered(
        self, body: Body, asked: Sequence[TextGeneration], shape: Shape, context: RequestContext
    ) -> Response:
        if body.stream:
            replies = await started(self._merged(asked, context))
            if replies.first is None or not isinstance(replies.first[1], Error):
                return EventStream(_events(shape, replies, len(asked), body.include_usage))
            await replies.aclose()
            return error_reply(replies.first[1])
        results = await self._all(asked, context)
        return (
            error_reply(results)
            if isinstance(results, Error)
            else Response(data(shape.whole(results)), media_type="application/json")
        )

    async def _all(
        self, asked: Sequence[TextGeneration], context: RequestContext
    ) -> list[TextGenerationResult] | Error:
        """Every choice's result, or the first failure, which ends the others."""
        if len(asked) == 1:
            answers = [await self.runtime.answer(asked[0], context)]
        else:
            tasks = [asyncio.create_task(self.runtime.answer(one, context)) for one in asked]
            try:
                for answered in asyncio.as_completed(tasks):
                    if isinstance(error := await answered, Error):
                        return error
            finally:
                for task in tasks:
                    task.cancel()
            answers = [task.result() for task in tasks]
        results = [answer for answer in answers if isinstance(answer, TextGenerationResult)]
        if len(results) < len(answers):
            failed = next((answer for answer in answers if isinstance(answer, Error)), None)
            return failed or Error.of(Internal("the model gave no text"), context.request_id)
        return results

    async def _merged(self, asked: Sequence[TextGeneration], context: RequestContext) -> AsyncGenerator[Numbered, None]:
        """The replies of all choices as they come."""
        if len(asked) == 1:
            async with aclosing(self.runtime.stream(asked[0], context)) as replies:
                async for reply in replies:
                    yield 0, reply
            return
        # Short, so that whoever reads slowly gets longer chunks, not more.
        said: asyncio.Queue[Numbered] = asyncio.Queue(1)

        async def follow(number: int, one: TextGeneration) -> None:
            async with aclosing(self.runtime.stream(one, context)) as replies:
                async for reply in replies:
                    await said.put((number, reply))

        tasks = [asyncio.create_task(follow(number, one)) for number, one in enumerate(asked)]
        try:
            left = len(tasks)
            while left:
                number, reply = await said.get()
                left -= isinstance(reply, InferResponse)
                yield number, reply
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def _events(shape: Shape, replies: StartedStream[Numbered], choices: int, include_usage: bool) -> Events:
    """`data:` lines, closed by [DONE]. A failure ends them with its error."""
    results: dict[int, TextGenerationResult] = {}
    told: dict[int, int] = {}  # characters, by choice
    # Every chunk has the field once usage is asked for.
    absent: dict[str, object] = {"usage": None} if include_usage else {}
    async with aclosing(replies):
        async for choice, reply in replies:
            said = []
            if choice not in told:
                told[choice] = 0
                said.append(shape.opening(choice))
            if isinstance(reply, Chunk):
                said.append(shape.text(choice, reply, told[choice]))
                told[choice] += len(reply.text)
            elif isinstance(reply, TextGenerationResult):
                said.append(shape.closing(choice, reply))
                results[choice] = reply
            else:
                yield _line(error_object(reply if isinstance(reply, Error) else Error.of(Cancelled("no text"))))
                break
            yield b"".join(_line(chunk | absent) for chunk in said if chunk is not None)
    if include_usage and len(results) == choices:
        usage = shape.usage([results[choice] for choice in range(choices)])
        yield _line(shape.bare() | {"usage": usage})
    yield b"data: [DONE]\n\n"


def _line(value: object) -> bytes:
    return b"data: " + data(value) + b"\n\n"


def _names(status: ModelStatus) -> set[str]:
    return {status.model_id, *(f"{status.model_id}@{version}" for version in status.versions)}
