"""The ingress deployment: builds the parts of the application's front, and has the methods that Serve calls."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette

from deployments.contract.errors import Unavailable
from deployments.contract.failures import error_of
from deployments.contract.status import AdminResult, AnsweredRequest, ModelStatus, QuarantinedInput, Verb
from deployments.contract.types import Error, InferRequest, InferResponse
from deployments.metrics.requests import Recorder
from deployments.replica.calls import CALLS_UNDER_WAY, Reply, units_waiting
from deployments.replica.context import (
    cluster_network,
    ingress_socket,
    launcher_profile,
    leave_place,
    private_socket,
)
from deployments.replica.family import Form
from deployments.replica.logs import join_serves_log
from deployments.system.cpu import answer_at_once
from serve_app.access.api_keys import Access, AccessSettings
from serve_app.access.caller import RequestContext
from serve_app.access.log import AccessLog
from serve_app.capacity import room_wanted
from serve_app.config.config import IngressSettings
from serve_app.dispatch.admission import Admission
from serve_app.dispatch.broadcast import CONTROL_TIMEOUT_S, broadcast, is_ready
from serve_app.dispatch.dispatcher import Dispatcher, Route
from serve_app.dispatch.replica_pool import ReplicaPool
from serve_app.dispatch.serve_internals import by_value, message_about, missing_variables
from serve_app.grpc.server import GrpcServer
from serve_app.http.app import build_http_app
from serve_app.http.oip.requests import Signature
from serve_app.http.oip.routes import oip_api
from serve_app.http.openai.routes import openai_api
from serve_app.http.unix_server import UnixServer
from serve_app.registry.admin import RegistryAdmin
from serve_app.registry.mirror import RegistryMirror
from serve_app.runtime import Runtime
from serve_app.traces import Traces

logger = logging.getLogger("model_runtime.ingress")

METRICS_AGGREGATOR = "metrics_aggregator"
REPORT_EVERY_S = 1.0


def refuse_incomplete(settings: IngressSettings) -> None:
    """Raises RuntimeError where this node's Ray lacks what has to be in its environment."""
    if missing := missing_variables(settings.max_body_bytes):
        raise RuntimeError(
            f"Ray was started without {' and '.join(missing)}: start it with `model-runtime exec ray start ...`, "
            "which sets all that is needed"
        )


class Ingress:
    """Every entrance leads to the runtime: HTTP through the ASGI application, handles through `infer`."""

    def __init__(
        self,
        settings: IngressSettings,
        routes: tuple[Route, ...],
        handles: Mapping[str, DeploymentHandle[Any]],
        forms: Sequence[Form],
        signatures: Mapping[str, Signature],
        grpc_address: str | None = None,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        join_serves_log()
        answer_at_once()
        refuse_incomplete(settings)
        self.routes = routes
        self.handles = {family: by_value(handle) for family, handle in handles.items()}
        self.access = Access(AccessSettings())
        self.recorder = Recorder(uuid.uuid4().hex)
        self.mirror = RegistryMirror()
        self.traces = Traces() if settings.traces else None
        self.access_log = AccessLog() if settings.access_log else None
        self.runtime = self._runtime(int(settings.max_prompt_kb * 1024))
        with_models = {route.family: self.handles[route.family] for route in routes if route.has_models}
        self.admin = RegistryAdmin(self.mirror, with_models, _preloads(routes))
        self._lasting = [asyncio.create_task(work) for work in (self.mirror.follow(), self._report_forever())]
        self._tasks: list[asyncio.Task[None]] = []
        openai = openai_api(settings, self.runtime, self)
        families = {route.family: route.request for route in routes}
        oip = oip_api(settings, self.access, self.runtime, self, signatures)
        self.http = build_http_app(settings, self.access, self.runtime, self, (openai, oip), forms, families)
        self._grpc = None
        if grpc_address:
            self._grpc = GrpcServer(grpc_address, settings, self.access, self.runtime, self, signatures, tls)
            self._tasks.append(asyncio.create_task(self._grpc.start()))
        self._unix_server: UnixServer | None = None
        path = ingress_socket()
        if path is not None and path == private_socket():  # Serve's HAProxy looks for the socket once, and soon.
            self._unix_server = UnixServer(self.http, path)
        self._listening = asyncio.create_task(self._listen(path))

    def _runtime(self, max_prompt_bytes: int) -> Runtime:
        profile, network = launcher_profile(), cluster_network()
        pools, admissions = {}, {}
        for route in self.routes:
            target_ongoing = route.settings.autoscaling.target_ongoing_requests
            pool = pools[route.family] = ReplicaPool(self.handles[route.family], target_ongoing, profile, network)
            admissions[route.family] = Admission(route.settings, pool.count, work=route.work)
        models = self.mirror
        dispatcher = Dispatcher(self.routes, pools, models, profile)
        access, recorder = self.access, self.recorder
        logged = self.access_log.add if self.access_log else None
        traced = self.traces.add if self.traces else None
        return Runtime(dispatcher, admissions, access, recorder, models.models, max_prompt_bytes, logged, traced)

    def __serve_build_asgi_app__(self) -> Starlette:
        return self.http

    async def _listen(self, path: Path | None) -> None:
        """Once the models are known: from then on HAProxy sends requests here, and there may be another ingress."""
        with suppress(Unavailable):
            await self.admin.take_over()
        if path is not None and self._unix_server is None:
            self._unix_server = UnixServer(self.http, path)

    async def __del__(self) -> None:
        """Called by Serve, once nothing new is sent here."""
        if self._unix_server:
            self._unix_server.leave()
            leave_place(self._unix_server.path)
        await asyncio.gather(*(server.close() for server in (self._unix_server, self._grpc) if server))
        if self.access_log:
            self.access_log.write()
        if self.traces:
            await asyncio.to_thread(self.traces.close)

    async def check_health(self) -> None:
        """Serve calls it before it stops a replica that this one replaces, and every second from then on."""
        await asyncio.shield(self._listening)
        for task in self._lasting:
            if task.done():
                raise RuntimeError("a task that follows the model registry, or reports metrics, has ended")

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Called by Serve with the settings that may change while the runtime runs. Never raises: Serve would end the
        replica."""
        try:
            access = AccessSettings.model_validate(user_config["access"])
            settings = user_config["settings"]
            routes = [
                replace(route, settings=route.settings.model_validate(settings[route.family])) for route in self.routes
            ]
        except (KeyError, TypeError, ValueError) as wrong:  # Of the `deployments` in a file for `serve deploy`.
            logger.error("a change is left out: %s", wrong)
            return
        self.access.update(access)
        self.routes = tuple(routes)
        self.admin.preload = _preloads(routes)
        self.runtime.use(routes)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For Serve, which does not see the requests of the Unix socket."""
        waiting = {
            units_waiting(self.handles[family].deployment_name): admission.waiting_units
            for family, admission in self.runtime.admissions.items()
        }
        return {CALLS_UNDER_WAY: float(self.runtime.under_way)} | waiting

    async def infer(self, request: InferRequest, request_id: str | None = None) -> InferResponse:
        """The response to one request. Never raises: every failure is an `Error`."""
        return await self.runtime.answer(request, RequestContext(request_id or uuid.uuid4().hex))

    async def infer_stream(self, request: InferRequest, request_id: str | None = None) -> AsyncIterator[Reply]:
        """The same in parts, for `handle.options(stream=True)`: any number of `Chunk`, then the response."""
        context = RequestContext(request_id or uuid.uuid4().hex)
        async with aclosing(self.runtime.stream(request, context)) as replies:
            async for reply in replies:
                yield reply

    async def models(self) -> list[ModelStatus]:
        """Every model of the repository, and where it is in memory."""
        return await self.admin.models()

    async def family(self, model_id: str) -> str:
        """The model's family; one without models is named by itself. Raises ModelNotFound, ModelLoadFailed."""
        without_models = {route.family for route in self.routes if not route.has_models}
        return model_id if model_id in without_models else await self.admin.family(model_id)

    async def warnings(self) -> list[str]:
        """What the configuration asks for and is not so, one line each."""
        return await self.admin.warnings()

    async def administer(self, verb: Verb, name: str) -> AdminResult | Error:
        """What an operator asks of one model. Never raises."""
        try:
            return await self.admin.do(verb, name)
        except Exception as cause:
            return error_of(cause, uuid.uuid4().hex)

    async def quarantine(self) -> list[QuarantinedInput]:
        """The inputs that are refused because replicas end with them."""
        return await self.admin.quarantine()

    async def lift(self, digest: str) -> QuarantinedInput | Error:
        """Takes an input again. Never raises."""
        try:
            return await self.admin.lift(digest)
        except Exception as cause:
            return error_of(cause, uuid.uuid4().hex)

    async def answered(self, request_id: str) -> AnsweredRequest | None:
        """What became of a recent request, whichever ingress replica answered it."""
        if here := self.answered_here(request_id):
            return here
        this = serve.get_replica_context()
        every = by_value(serve.get_deployment_handle(this.deployment, this.app_name))
        return next(filter(None, await broadcast(every, "answered_here", request_id)), None)

    def answered_here(self, request_id: str) -> AnsweredRequest | None:
        return self.runtime.recent.get(request_id)

    async def not_ready(self) -> list[str]:
        """What a request might have to wait for: the models' names, and families that keep replicas of which none can
        answer now."""
        needed = [route.family for route in self.routes if not route.may_be_empty]
        ready = await asyncio.gather(*(is_ready(self.handles[family]) for family in needed))
        reasons = [] if self.mirror.is_known else ["the model repository has not been read yet"]
        silent = [family for family, answers in zip(needed, ready, strict=True) if not answers]
        return reasons + [await self._silence_of(family) for family in silent]

    async def _silence_of(self, family: str) -> str:
        """In a line, with what its replica waits for where it finds no room."""
        wanted = None
        with suppress(RayError, TimeoutError):  # Serve's controller is being started again.
            async with asyncio.timeout(CONTROL_TIMEOUT_S):
                wanted = room_wanted(await message_about(self.handles[family]))
        return f"{family} has no replica that answers" + (f": {wanted}" if wanted else "")

    async def metrics(self, openmetrics: bool = False) -> str:
        """The runtime's metrics in Prometheus' text format, or in OpenMetrics."""
        await self._report()
        text: str = await serve.get_deployment_actor(METRICS_AGGREGATOR).render.remote(openmetrics)
        return text

    async def _report_forever(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            try:
                await self._report()
            except (RayActorError, ValueError) as failure:  # The aggregator is being started again; no count is lost.
                logger.warning("metrics were not reported: %s", type(failure).__name__)

    async def _report(self) -> None:
        gpus = await self._asked("gpu_utilization", [route for route in self.routes if route.on_gpu])
        measured = await self._asked("measurements", [route for route in self.routes if route.has_models])
        utilization = {gpu: percent for of_replica in gpus for gpu, percent in of_replica.items()}
        known = frozenset(self.mirror.models()) if self.mirror.is_known else None
        report = self.recorder.report(utilization, [one for of_replica in measured for one in of_replica], known)
        await serve.get_deployment_actor(METRICS_AGGREGATOR).report.remote(report)

    async def _asked(self, method: str, routes: list[Route]) -> list[Any]:
        """What every replica of some families answers."""
        answers = await asyncio.gather(*(broadcast(self.handles[route.family], method) for route in routes))
        return [answer for of_family in answers for answer in of_family]


def _preloads(routes: Iterable[Route]) -> dict[str, tuple[str, ...]]:
    return {route.family: route.settings.preload for route in routes if route.has_models}
