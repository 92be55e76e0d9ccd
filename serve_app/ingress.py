"""The ingress deployment: decodes requests, sends them to their families, counts what comes of them."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette

from deployments.contract.errors import Cancelled, InvalidRequest, PromptTooLong, ServingError
from deployments.contract.failures import error_of
from deployments.contract.status import AdminResult, ModelStatus, Verb
from deployments.contract.types import Error, InferRequest, InferResponse, TextGeneration, TextGenerationResult
from deployments.metrics.requests import Labels, Recorder
from deployments.replica.calls import CALLS_UNDER_WAY, Reply
from deployments.replica.context import private_socket
from deployments.replica.family import Form
from serve_app.access.api_keys import Access, AccessSettings
from serve_app.access.caller import Caller, RequestContext
from serve_app.config.config import IngressSettings
from serve_app.dispatch.dispatcher import Dispatcher, Route
from serve_app.http.app import build_http_app
from serve_app.http.openai.routes import openai_api
from serve_app.http.unix_server import UnixServer
from serve_app.registry.admin import RegistryAdmin
from serve_app.registry.mirror import RegistryMirror

logger = logging.getLogger("model_runtime.ingress")

METRICS_AGGREGATOR = "metrics_board"
REPORT_EVERY_S = 1.0


class Ingress:
    """Every entrance leads here: HTTP through the ASGI application, handles through `infer`."""

    def __init__(
        self,
        settings: IngressSettings,
        routes: tuple[Route, ...],
        handles: Mapping[str, DeploymentHandle[Any]],
        forms: Sequence[Form],
    ) -> None:
        self.settings = settings
        self.access = Access(AccessSettings())
        self.catalog = RegistryMirror()
        self.dispatcher = Dispatcher(routes, handles, self.catalog)
        with_models = [route.family for route in routes if route.has_models]
        self.administration = RegistryAdmin(self.catalog, {family: handles[family] for family in with_models})
        self.recorder = Recorder(uuid.uuid4().hex)
        self._under_way = 0
        self._following = asyncio.create_task(self.catalog.follow())
        self._reporting = asyncio.create_task(self._report_forever())
        self.http = build_http_app(settings, self.access, self, self, (openai_api(settings, self, self),), forms)
        path = private_socket()
        self._door = UnixServer(self.http, path) if path else None

    def __serve_build_asgi_app__(self) -> Starlette:
        return self.http

    async def __del__(self) -> None:
        """Called by Serve, once nothing new is sent here."""
        if self._door:
            await self._door.close()

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve's way to hand over what may change while running."""
        self.access.update(AccessSettings.model_validate(user_config["access"]))

    async def infer(self, request: InferRequest, request_id: str | None = None) -> InferResponse:
        """The answer to one request. Never raises: every failure is an `Error`."""
        return await self.answer(_checked(request), RequestContext(request_id or uuid.uuid4().hex))

    async def infer_stream(self, request: InferRequest, request_id: str | None = None) -> AsyncIterator[Reply]:
        """The same in parts, for `handle.options(stream=True)`: any number of `Chunk`, then the response."""
        async with aclosing(self.stream(_checked(request), RequestContext(request_id or uuid.uuid4().hex))) as replies:
            async for reply in replies:
                yield reply

    async def answer(self, asked: InferRequest | ServingError, context: RequestContext) -> InferResponse:
        """The response to a request. A request that could not be decoded is an error, and counted as one."""
        with self._counting(context.caller) as counted:
            try:
                request, route = await self._routed(asked, counted)
                counted.response = await self.dispatcher.call(request, context, route)
            except Exception as cause:
                counted.response = error_of(cause, context.request_id)
        return counted.response

    async def stream(self, asked: InferRequest | ServingError, context: RequestContext) -> AsyncGenerator[Reply, None]:
        """Any number of chunks, then the response. Never raises; closing it cancels the request."""
        response: InferResponse | None = None
        with self._counting(context.caller) as counted:
            try:
                request, route = await self._routed(asked, counted)
                async with aclosing(self.dispatcher.stream(request, context, route)) as replies:
                    async for reply in replies:
                        if isinstance(reply, InferResponse):
                            response = reply
                        else:
                            yield reply
            except Exception as cause:
                response = error_of(cause, context.request_id)
            counted.response = response
        assert response is not None
        yield response

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For Serve, which does not see what comes by the door."""
        return {CALLS_UNDER_WAY: float(self._under_way)}

    async def _routed(self, request: InferRequest | ServingError, counted: "_Counted") -> tuple[InferRequest, Route]:
        if isinstance(request, ServingError):
            raise request
        self.access.take(counted.caller)
        if isinstance(request, TextGeneration):
            self._refuse_long(request)
        route = self.dispatcher.route(request)
        counted.family = route.family
        if route.has_models:
            await self.catalog.ready()
        if request.model_id in self.catalog.models():
            counted.model = request.model_id
        return request, route

    def _refuse_long(self, request: TextGeneration) -> None:
        limit = int(self.settings.max_prompt_kb * 1024)
        texts = [request.prompt, *(message.content for message in request.messages or ())]
        if sum(map(len, texts)) * 4 > limit and (size := sum(len(text.encode()) for text in texts)) > limit:
            raise PromptTooLong(f"the prompt has {size} bytes; at most {limit} are taken")

    @contextmanager
    def _counting(self, caller: Caller) -> Iterator["_Counted"]:
        """Counts a request whatever its outcome: a cancelled one has no response."""
        counted = _Counted(caller)
        self._under_way += 1
        try:
            yield counted
        finally:
            self._under_way -= 1
            response = counted.response
            if isinstance(response, TextGenerationResult) and response.usage is not None:
                self.access.spend(counted.caller, response.usage.prompt_tokens + response.usage.completion_tokens)
            labels = Labels(counted.model, counted.family, _outcome(response))
            self.recorder.record(labels, (time.perf_counter() - counted.started) * 1000)

    async def models(self) -> list[ModelStatus]:
        """Every model of the repository, and where it is in memory."""
        return await self.administration.models()

    async def administer(self, verb: Verb, name: str) -> AdminResult | Error:
        """What an operator asks of one model. Never raises."""
        try:
            return await self.administration.do(verb, name)
        except Exception as cause:
            return error_of(cause, uuid.uuid4().hex)

    async def ready(self) -> bool:
        """Whether it is known which models there are, and every family can answer."""
        return self.catalog.is_known and await self.dispatcher.ready()

    async def metrics(self) -> str:
        """The runtime's metrics in Prometheus' text format."""
        await self._report()
        text: str = await serve.get_deployment_actor(METRICS_AGGREGATOR).render.remote()
        return text

    async def _report_forever(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            try:
                await self._report()
            except (RayActorError, ValueError) as failure:  # the board is being made anew; nothing is lost
                logger.warning("metrics were not reported: %s", type(failure).__name__)

    async def _report(self) -> None:
        report = self.recorder.report(await self.dispatcher.gpus(), await self.dispatcher.measurements())
        await serve.get_deployment_actor(METRICS_AGGREGATOR).report.remote(report)


@dataclass
class _Counted:
    """What a request is counted under; an unknown model or family never becomes a label."""

    caller: Caller
    model: str = "unknown"
    family: str = "unknown"
    response: InferResponse | None = None
    started: float = field(default_factory=time.perf_counter)


def _outcome(response: InferResponse | None) -> str:
    if response is None:
        return Cancelled.code
    return (response.code or "internal") if isinstance(response, Error) else "ok"


def _checked(request: object) -> InferRequest | ServingError:
    if isinstance(request, InferRequest):
        return request
    return InvalidRequest(f"expected an InferRequest, not {type(request).__name__}")
