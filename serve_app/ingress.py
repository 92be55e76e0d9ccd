"""The ingress deployment: decodes requests, sends them to their families, counts what comes of them."""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette

from deployments.errors import InvalidRequest
from deployments.failures import error_of
from deployments.metrics import Labels, Recorder
from deployments.protocol import Call, Error, InferRequest, InferResponse
from deployments.repository import Repository
from serve_app.config import IngressSettings
from serve_app.dispatch import Dispatcher, Route
from serve_app.http.app import build_http_app
from serve_app.status import ModelStatus, model_statuses

logger = logging.getLogger("model_runtime.ingress")

METRICS_BOARD = "metrics_board"
REPORT_EVERY_S = 1.0


class Ingress:
    """Every entrance leads here: HTTP through the ASGI application, handles through `infer`."""

    def __init__(
        self,
        settings: IngressSettings,
        routes: tuple[Route, ...],
        repository: Repository,
        handles: Mapping[str, DeploymentHandle[Any]],
    ) -> None:
        self.settings = settings
        self.repository = repository
        self.dispatcher = Dispatcher(routes, handles, repository)
        self.recorder = Recorder(uuid.uuid4().hex)
        self._reporting = asyncio.create_task(self._report_forever())

    def __serve_build_asgi_app__(self) -> Starlette:
        return build_http_app(self)

    async def infer(self, request: InferRequest, request_id: str | None = None) -> InferResponse:
        """The answer to one request. Never raises: every failure is an `Error`."""

        async def read() -> InferRequest:
            if not isinstance(request, InferRequest):
                raise InvalidRequest(f"expected an InferRequest, not {type(request).__name__}")
            return request

        return await self.answer(read, request_id or uuid.uuid4().hex)

    async def answer(self, read: Callable[[], Awaitable[InferRequest]], request_id: str) -> InferResponse:
        """The answer to the request that `read` gives. What `read` raises is answered and counted as well."""
        started = time.perf_counter()
        model = family = "unknown"
        try:
            request = await read()
            route = self.dispatcher.route(request)
            family = route.family
            if request.model_id in self.repository.models():
                model = request.model_id
            async with asyncio.timeout(route.deadline_s):
                response = await self.dispatcher.call(Call(request, request_id, route.deadline_s), route)
        except Exception as cause:
            response = error_of(cause, request_id)
        outcome = (response.code or "internal") if isinstance(response, Error) else "ok"
        self.recorder.record(Labels(model, family, outcome), (time.perf_counter() - started) * 1000)
        return response

    async def models(self) -> list[ModelStatus]:
        """Every model of the repository, and where it is in memory."""
        return model_statuses(self.repository.models(), await self.dispatcher.residents())

    async def ready(self) -> bool:
        """Whether every family can answer."""
        return await self.dispatcher.ready()

    async def metrics(self) -> str:
        """The runtime's metrics in Prometheus' text format."""
        await self._report()
        text: str = await serve.get_deployment_actor(METRICS_BOARD).render.remote()
        return text

    async def _report_forever(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            try:
                await self._report()
            except (RayActorError, ValueError) as failure:  # the board is being made anew; nothing is lost
                logger.warning("metrics were not reported: %s", type(failure).__name__)

    async def _report(self) -> None:
        report = self.recorder.report(await self.dispatcher.gpus())
        await serve.get_deployment_actor(METRICS_BOARD).report.remote(report)
