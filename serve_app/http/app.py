"""The routes. Every failure on them is the union's `Error`, whatever raised it."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from deployments.contract import wire
from deployments.contract.errors import MethodNotAllowed, NotFound, ServingError, quoted
from deployments.contract.failures import error_of
from deployments.contract.types import Error, InferRequest, TextGeneration
from serve_app.http.batch import NDJSON, AnsweredLines, answer_list
from serve_app.http.disconnect import unless_gone
from serve_app.http.middleware import Guard
from serve_app.http.models import model_routes
from serve_app.http.openai.routes import OpenAI
from serve_app.http.openapi import openapi_document, openapi_page
from serve_app.http.requests import media_type, read_json, read_request
from serve_app.http.responses import failure_response, rendered
from serve_app.http.runtime import Read, Runtime, giving, raising, request_id_of
from serve_app.http.sse import EventStream, opened, union_events


def build_http_app(runtime: Runtime) -> Starlette:
    limit_bytes = int(runtime.settings.max_body_mb * 2**20)

    async def infer(request: Request) -> Response:
        request_id = request_id_of(request)
        asked, read = await _read(request, limit_bytes)
        if isinstance(asked, TextGeneration) and asked.stream:
            return await unless_gone(request, streamed(request, read, request_id))
        return await unless_gone(request, answered(request, read, request_id))

    async def answered(request: Request, read: Read, request_id: str) -> Response:
        return rendered(await runtime.answer(read, request_id), _accepted(request))

    async def streamed(request: Request, read: Read, request_id: str) -> Response:
        replies = await opened(runtime.stream(read, request_id))
        if not isinstance(replies.first, Error):
            return EventStream(union_events(replies))
        await replies.aclose()
        return rendered(replies.first, _accepted(request))

    async def infer_batch(request: Request) -> Response:
        if media_type(request) == NDJSON:
            return AnsweredLines(request, limit_bytes, runtime.answer)
        try:
            return await unless_gone(request, answered_list(await read_json(request, limit_bytes)))
        except ServingError as failure:
            return rendered(Error.of(failure, request_id_of(request)), wire.JSON)

    async def answered_list(body: bytes) -> Response:
        return Response(await answer_list(body, runtime.answer), media_type=wire.JSON)

    async def models(request: Request) -> Response:
        return JSONResponse({"models": [status.model_dump() for status in await runtime.models()]})

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(request: Request) -> Response:
        if await runtime.ready():
            return PlainTextResponse("ready\n")
        return PlainTextResponse("not ready: a family has no replica that answers\n", status_code=503)

    async def metrics(request: Request) -> Response:
        return PlainTextResponse(await runtime.metrics(), media_type="text/plain; version=0.0.4")

    async def openapi(request: Request) -> Response:
        return JSONResponse(openapi_document())

    async def docs(request: Request) -> Response:
        return HTMLResponse(openapi_page(openapi_document()))

    app = Starlette(
        routes=[
            Route("/infer", infer, methods=["POST"]),
            Route("/infer/batch", infer_batch, methods=["POST"]),
            Route("/models", models),
            *model_routes(runtime),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/openapi.json", openapi),
            Route("/docs", docs),
            *OpenAI(runtime, limit_bytes).routes(),
        ],
        middleware=[Middleware(Guard, runtime.access, int(runtime.settings.max_held_mb * 2**20))],
        exception_handlers={HTTPException: _no_such_route, Exception: _unexpected},
    )
    app.router.redirect_slashes = False  # a route is there or it is not
    return app


async def _read(request: Request, limit_bytes: int) -> tuple[InferRequest | None, Read]:
    """What was asked, None where that cannot be read, and how the runtime learns it."""
    try:
        asked = await read_request(request, limit_bytes)
    except Exception as cause:
        return None, raising(cause)
    return asked, giving(asked)


async def _no_such_route(request: Request, failure: Exception) -> Response:
    path = quoted(request.url.path)
    kind = MethodNotAllowed if getattr(failure, "status_code", 404) == 405 else NotFound
    message = f"{request.method} is not for {path}" if kind is MethodNotAllowed else f"there is no route {path}"
    response = failure_response(request.url.path, Error.of(kind(message), request_id_of(request)))
    response.headers.update(getattr(failure, "headers", None) or {})  # Allow
    return response


async def _unexpected(request: Request, failure: Exception) -> Response:
    return failure_response(request.url.path, error_of(failure, request_id_of(request)))


def _accepted(request: Request) -> str:
    """The answer's type: what the caller asks for, else what it sent, else JSON."""
    accepted = [part.split(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")]
    return next((known for known in (*accepted, media_type(request)) if known in wire.MEDIA_TYPES), wire.JSON)
