"""The HTTP application: its routes, and an `Error` for every failure on them. Knows no Ray and no other protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from deployments.contract import wire
from deployments.contract.errors import MethodNotAllowed, NotFound, ServingError, quoted
from deployments.contract.failures import error_of
from deployments.contract.types import Error, InferRequest
from deployments.replica.calls import Reply
from deployments.replica.family import Form
from serve_app.access.api_keys import METRICS_PATH, Access
from serve_app.config.config import IngressSettings
from serve_app.http.batch import NDJSON, JsonLinesResponse, answer_list
from serve_app.http.cors import cors
from serve_app.http.home.routes import page_routes
from serve_app.http.interfaces import MountedApi, Operations, Runtime
from serve_app.http.middleware import LimitsMiddleware, path_of
from serve_app.http.models import model_routes
from serve_app.http.openapi import openapi_document
from serve_app.http.requests import (
    accepted,
    cancel_on_disconnect,
    context_of,
    decoded,
    media_type,
    read_json,
    request_id_of,
)
from serve_app.http.responses import error_response, rendered
from serve_app.http.sse import streamed, union_events

OPENMETRICS = "application/openmetrics-text"


def build_http_app(
    settings: IngressSettings,
    access: Access,
    runtime: Runtime,
    operations: Operations,
    apis: Sequence[MountedApi] = (),
    forms: Sequence[Form] = (),
    families: Mapping[str, type[InferRequest]] | None = None,
) -> Starlette:
    """`apis`: the protocols that are served beside the contract's own. `forms`: what `/infer` takes as a form.
    `families`: the request of each, for the home page."""
    render_error = partial(error_response, renderers={api.prefix: api.render_error for api in apis})

    async def failed(request: Request, cause: Exception) -> Response:
        return render_error(path_of(request.scope), error_of(cause, request_id_of(request.headers)))

    async def not_routed(request: Request, cause: Exception) -> Response:
        assert isinstance(cause, HTTPException)
        path = quoted(path_of(request.scope))
        wrong_method = cause.status_code == 405
        error = (
            MethodNotAllowed(f"{request.method} is not for {path}")
            if wrong_method
            else NotFound(f"there is no route {path}")
        )
        response = await failed(request, error)
        response.headers.update(cause.headers or {})  # Allow
        return response

    def has_home_page() -> bool:
        return not access.settings.keys if settings.home_page is None else settings.home_page

    limits = Middleware(LimitsMiddleware, access, int(settings.max_held_mb * 2**20), render_error)
    app = Starlette(
        routes=[
            *_inference_routes(runtime, settings.max_body_bytes, forms),
            *_operations_routes(operations, access),
            _openapi_route(apis, forms),
            *page_routes(has_home_page, families or {}, forms),
            *(route for api in apis for route in api.routes),
        ],
        middleware=[*cors(settings.allowed_origins, failed), limits],
        exception_handlers={HTTPException: not_routed, ServingError: failed, Exception: failed},
    )
    app.router.redirect_slashes = False  # /infer/ is another path than /infer.
    return app


def _inference_routes(runtime: Runtime, limit_bytes: int, forms: Sequence[Form]) -> list[BaseRoute]:
    async def infer(request: Request) -> Response:
        asked, context = await decoded(request, limit_bytes, forms), context_of(request)
        if isinstance(asked, InferRequest) and asked.wants_stream:
            work = streamed(runtime.stream(asked, context), union_events, partial(_refusal, accepted(request)))
            return await cancel_on_disconnect(request, work)
        return rendered(await cancel_on_disconnect(request, runtime.answer(asked, context)), accepted(request))

    async def infer_batch(request: Request) -> Response:
        context = context_of(request)
        if media_type(request) == NDJSON:
            return JsonLinesResponse(request, limit_bytes, runtime, context)
        items = await read_json(request, limit_bytes)
        answers = await cancel_on_disconnect(request, answer_list(items, runtime, context))
        return Response(answers, media_type=wire.JSON)

    return [Route("/infer", infer, methods=["POST"]), Route("/infer/batch", infer_batch, methods=["POST"])]


def _refusal(content_type: str, reply: Reply) -> Response | None:
    return rendered(reply, content_type) if isinstance(reply, Error) else None


def _operations_routes(operations: Operations, access: Access) -> list[BaseRoute]:
    async def healthz(request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(request: Request) -> Response:
        reasons = await operations.not_ready()
        if not reasons:
            return PlainTextResponse("ready\n")
        return PlainTextResponse("".join(f"not ready: {reason}\n" for reason in reasons), status_code=503)

    async def metrics(request: Request) -> Response:
        openmetrics = OPENMETRICS in request.headers.get("accept", "")
        version = "1.0.0" if openmetrics else "0.0.4"
        media_type = f"{OPENMETRICS if openmetrics else 'text/plain'}; version={version}; charset=utf-8"
        return Response(await operations.metrics(openmetrics), media_type=media_type)

    async def answered(request: Request) -> Response:
        request_id = request.path_params["request_id"]
        found = await operations.answered(request_id)
        # Of another key's request nobody learns that there was one.
        if found is None or not access.may_see(request.scope["state"]["caller"], found.key):
            raise NotFound(f"no request {quoted(request_id)} among the last ones that were answered")
        return JSONResponse(asdict(found))

    health = [Route("/healthz", healthz), Route("/health", healthz), Route("/readyz", readyz)]
    return [*model_routes(operations), *health, Route(METRICS_PATH, metrics), Route("/requests/{request_id}", answered)]


def _openapi_route(apis: Sequence[MountedApi], forms: Sequence[Form]) -> BaseRoute:
    async def openapi(request: Request) -> Response:
        prefix = request.scope.get("root_path", "")
        servers = {"servers": [{"url": prefix}]} if prefix else {}
        return JSONResponse(openapi_document(apis, forms) | servers)

    return Route("/openapi.json", openapi)
