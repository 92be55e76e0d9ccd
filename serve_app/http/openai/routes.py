"""The routes below /v1. A body becomes one request for each choice, all sent to the runtime at once."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.contract import wire
from deployments.contract.chat import Markup
from deployments.contract.chunk import Chunk
from deployments.contract.errors import Cancelled, Internal, ModelNotFound, ServingError, quoted
from deployments.contract.status import ModelStatus
from deployments.contract.types import (
    Error,
    InferResponse,
    SpeechToTextResult,
    TextEmbeddingResult,
    TextGeneration,
    TextGenerationResult,
)
from deployments.replica.calls import Reply
from serve_app.access.caller import RequestContext
from serve_app.config.config import IngressSettings
from serve_app.http.interfaces import MountedApi, Operations, Runtime
from serve_app.http.openai.audio import AudioForm, Task, audio_events
from serve_app.http.openai.chat import ChatBody
from serve_app.http.openai.choice_stream import ChoiceStream
from serve_app.http.openai.embeddings import EmbeddingBody
from serve_app.http.openai.errors import InvalidField, error_object, render_error
from serve_app.http.openai.openapi import openai_paths
from serve_app.http.openai.parsing.output import OutputParser
from serve_app.http.openai.requests import AnyBody, Body, CompletionBody, body_of
from serve_app.http.openai.response_body import ResponseBody
from serve_app.http.openai.response_events import ResponseEvents, response_stream
from serve_app.http.openai.responses import ChatBuilder, CompletionBuilder, ResponseBuilder
from serve_app.http.requests import cancel_on_disconnect, context_of, read_form, read_json
from serve_app.http.sse import Events, StartedStream, data, streamed

FAMILIES = frozenset({"text_generation", "text_embedding", "speech_to_text"})
"""Whose models OpenAI's clients may ask."""

ChoiceReply = tuple[int, Reply]
"""The number of a choice, and a reply to its request."""


def openai_api(settings: IngressSettings, runtime: Runtime, operations: Operations) -> MountedApi:
    api = _OpenAI(settings.max_body_bytes, runtime, operations)
    routes = [
        Route("/v1/models", api.models),
        Route("/v1/models/{model_id:path}", api.model),
        Route("/v1/completions", partial(api.generate, CompletionBody), methods=["POST"]),
        Route("/v1/responses", api.respond, methods=["POST"]),
        Route("/v1/embeddings", api.embed, methods=["POST"]),
        Route("/v1/audio/transcriptions", partial(api.transcribe, "transcribe"), methods=["POST"]),
        Route("/v1/audio/translations", partial(api.transcribe, "translate"), methods=["POST"]),
        Route("/v1/chat/completions", partial(api.generate, ChatBody), methods=["POST"]),
    ]
    return MountedApi("/v1", routes, render_error, openai_paths)


@dataclass
class _OpenAI:
    limit_bytes: int
    runtime: Runtime
    operations: Operations
    created: int = field(default_factory=lambda: int(time.time()))

    async def models(self, request: Request) -> Response:
        statuses = await self.operations.models()
        listed = [self._model(status.model_id, status) for status in statuses if status.family in FAMILIES]
        return JSONResponse({"object": "list", "data": listed})

    async def model(self, request: Request) -> Response:
        model_id = request.path_params["model_id"]
        for status in await self.operations.models():
            names = (status.model_id, *(f"{status.model_id}@{version}" for version in status.versions))
            if status.family in FAMILIES and model_id in names:
                return JSONResponse(self._model(model_id, status))
        raise ModelNotFound(f"there is no text model {quoted(model_id)}")

    def _model(self, model_id: str, status: ModelStatus) -> dict[str, object]:
        # The name under which vLLM and the clients that were written for it have it.
        context = {} if status.context is None else {"max_model_len": status.context}
        return {"id": model_id, "object": "model", "created": self.created, "owned_by": "model-runtime"} | context

    async def generate(self, kind: type[CompletionBody] | type[ChatBody], request: Request) -> Response:
        context = context_of(request)
        body = await self._body(kind, request, context)
        if isinstance(body, Response):
            return body
        context = replace(context, left_open=body.left_open)
        answer = self._streamed if body.stream else self._whole
        return await cancel_on_disconnect(request, answer(body, body.requests, context))

    async def embed(self, request: Request) -> Response:
        context = context_of(request)
        body = await self._body(EmbeddingBody, request, context)
        if isinstance(body, Response):
            return body
        result = await cancel_on_disconnect(request, self.runtime.answer(body.requests[0], context))
        if not isinstance(result, TextEmbeddingResult):
            return render_error(result if isinstance(result, Error) else Error.of(Internal("the model gave none")))
        return Response(data(body.response(result)), media_type=wire.JSON)

    async def transcribe(self, task: Task, request: Request) -> Response:
        context = context_of(request)
        try:
            form = AudioForm.of(await read_form(request, self.limit_bytes), task)
        except ServingError as failure:
            return await self._refused(failure, context)
        if form.request.wants_stream:
            work = streamed(self.runtime.stream(form.request, context), audio_events, _refusal)
            return await cancel_on_disconnect(request, work)
        result = await cancel_on_disconnect(request, self.runtime.answer(form.request, context))
        if not isinstance(result, SpeechToTextResult):
            return render_error(result if isinstance(result, Error) else Error.of(Internal("the model gave no text")))
        body, kind = form.rendered(result)
        return Response(body, media_type=kind)

    async def respond(self, request: Request) -> Response:
        context = context_of(request)
        body = await self._body(ResponseBody, request, context)
        if isinstance(body, Response):
            return body
        context = replace(context, left_open=body.chat.left_open)
        events = ResponseEvents(body.echo(f"resp_{context.request_id}", int(time.time())))
        if body.stream:
            as_events = partial(response_stream, events, parse=body.chat.parser)
            work = streamed(self.runtime.stream(body.requests[0], context), as_events, _refusal)
            return await cancel_on_disconnect(request, work)
        result = await cancel_on_disconnect(request, self.runtime.answer(body.requests[0], context))
        if not isinstance(result, TextGenerationResult):
            return render_error(result if isinstance(result, Error) else Error.of(Internal("the model gave no text")))
        delta = body.chat.parser(result.markup or Markup()).whole(result.generated_text)
        events.feed(delta, result.logprobs or ())
        events.end(result)
        return Response(data(events.response(result)), media_type=wire.JSON)

    async def _body(self, kind: type[AnyBody], request: Request, context: RequestContext) -> AnyBody | Response:
        """What the request asks for, or why it cannot be read."""
        try:
            return body_of(kind, await read_json(request, self.limit_bytes))
        except ServingError as failure:
            return await self._refused(failure, context)

    async def _refused(self, failure: ServingError, context: RequestContext) -> Response:
        error = await self.runtime.answer(failure, context)
        assert isinstance(error, Error)
        return render_error(error, failure.param if isinstance(failure, InvalidField) else None)

    async def _whole(self, body: Body, asked: Sequence[TextGeneration], context: RequestContext) -> Response:
        """Every choice's text, or the first error, which cancels the other choices."""
        tasks = [asyncio.create_task(self.runtime.answer(one, context.of(choice))) for choice, one in enumerate(asked)]
        try:
            for answer in asyncio.as_completed(tasks):
                if isinstance(response := await answer, Error):
                    return render_error(response)
        finally:
            for task in tasks:
                task.cancel()
        results = [result for task in tasks if isinstance(result := task.result(), TextGenerationResult)]
        if len(results) < len(tasks):
            return render_error(Error.of(Internal("the model gave no text"), context.request_id))
        return Response(data(_builder(body, context).response(results)), media_type=wire.JSON)

    async def _streamed(self, body: Body, asked: Sequence[TextGeneration], context: RequestContext) -> Response:
        as_events = partial(_events, _builder(body, context), choices=len(asked), include_usage=body.include_usage)
        return await streamed(self._replies(asked, context), as_events, lambda first: _refusal(first[1]))

    async def _replies(
        self, asked: Sequence[TextGeneration], context: RequestContext
    ) -> AsyncGenerator[ChoiceReply, None]:
        """The replies of all choices as they arrive."""
        if len(asked) == 1:
            async with aclosing(self.runtime.stream(asked[0], context)) as replies:
                async for reply in replies:
                    yield 0, reply
            return
        # One item: a client that reads slowly gets longer chunks, not more of them.
        arrived: asyncio.Queue[ChoiceReply] = asyncio.Queue(1)

        async def follow(choice: int, request: TextGeneration) -> None:
            async with aclosing(self.runtime.stream(request, context.of(choice))) as replies:
                async for reply in replies:
                    await arrived.put((choice, reply))

        tasks = [asyncio.create_task(follow(choice, request)) for choice, request in enumerate(asked)]
        try:
            left = len(tasks)
            while left:
                choice, reply = await arrived.get()
                left -= isinstance(reply, InferResponse)
                yield choice, reply
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


def _refusal(reply: Reply) -> Response | None:
    return render_error(reply) if isinstance(reply, Error) else None


def _builder(body: Body, context: RequestContext) -> ResponseBuilder:
    created = int(time.time())
    if isinstance(body, CompletionBody):
        return CompletionBuilder(f"cmpl-{context.request_id}", created, body.model, body.choices, body.echoes())
    parse = body.parser if isinstance(body, ChatBody) else OutputParser
    return ChatBuilder(f"chatcmpl-{context.request_id}", created, body.model, body.choices, parse=parse)


async def _events(
    builder: ResponseBuilder, replies: StartedStream[ChoiceReply], choices: int, include_usage: bool
) -> Events:
    """`data:` lines, closed by [DONE]. An error ends them with an error object."""
    streams: dict[int, ChoiceStream] = {}
    # With usage in the last chunk every other one has the field as well.
    no_usage: dict[str, object] = {"usage": None} if include_usage else {}
    async with aclosing(replies):
        async for choice, reply in replies:
            stream = streams.setdefault(choice, ChoiceStream(builder, choice))
            if isinstance(reply, Chunk):
                chunks = stream.chunks(reply)
            elif isinstance(reply, TextGenerationResult):
                chunks = stream.last_chunks(reply)
            else:
                yield _line(error_object(reply if isinstance(reply, Error) else Error.of(Cancelled("no text"))))
                break
            if lines := b"".join(_line(chunk | no_usage) for chunk in chunks):
                yield lines
    results = [streams[choice].result for choice in sorted(streams)]
    if include_usage and len(complete := [result for result in results if result]) == choices:
        yield _line(builder.usage_chunk(complete))
    yield b"data: [DONE]\n\n"


def _line(value: object) -> bytes:
    return b"data: " + data(value) + b"\n\n"
