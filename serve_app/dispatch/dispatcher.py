"""From a request to its answer: which family and model, by which deadline."""

import asyncio
import itertools
import logging
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from deployments.contract.errors import DeadlineExceeded, InvalidRequest, Unavailable
from deployments.contract.settings import FamilySettings
from deployments.contract.types import Chunk, InferRequest, InferResponse
from deployments.metrics.samples import ModelReport
from deployments.replica.calls import Call, OnChunk, Reply
from deployments.replica.context import launcher_profile
from deployments.repository.model import Model
from serve_app.access.caller import RequestContext
from serve_app.dispatch.admission import Admission
from serve_app.dispatch.broadcast import CONTROL_TIMEOUT_S, broadcast
from serve_app.dispatch.handle_transport import LOST, HandleTransport
from serve_app.dispatch.pending import Pending
from serve_app.dispatch.replica_pool import ReplicaPool
from serve_app.registry.mirror import RegistryMirror

logger = logging.getLogger("model_runtime.dispatch")

Known = Callable[[], Mapping[Any, object]]
"""The replicas of a family that Serve tells of, by id."""

SWEEP_LANES = 256
"""With so many lanes the idle ones go."""


@dataclass(frozen=True, slots=True)
class Route:
    """What the ingress knows of a family."""

    family: str
    request: type[InferRequest]
    has_models: bool
    """False for a family that answers without the repository."""
    settings: FamilySettings
    on_gpu: bool
    may_be_empty: bool
    """True where the family may have no replica at times."""


class Dispatcher:
    """Sends calls to the families' deployments. Handles are built once."""

    def __init__(
        self, routes: tuple[Route, ...], handles: Mapping[str, DeploymentHandle[Any]], catalog: RegistryMirror
    ) -> None:
        self.catalog = catalog
        self.routes = {route.request: route for route in routes}
        # By value: a request is small beside what a trip through the object store costs.
        self.handles = {family: handle.options(_by_reference=False) for family, handle in handles.items()}
        self.exchanges = {family: handle.options(stream=True).exchange for family, handle in self.handles.items()}
        self._lanes: dict[tuple[str, str], HandleTransport] = {}
        self._admissions: dict[str, Admission] = {}
        self._lines: dict[str, ReplicaPool] = {}
        for route in routes:
            known = partial(_replicas, self.handles[route.family])
            self._admissions[route.family] = Admission(route.settings, partial(_count, known))
            enough = route.settings.autoscaling.target_ongoing_requests
            self._lines[route.family] = ReplicaPool(known, launcher_profile(), enough, partial(self._lost, route))
        self._name = uuid.uuid4().hex[:8]
        self._numbers = itertools.count()

    def route(self, request: InferRequest) -> Route:
        """Raises InvalidRequest for a variant that no family serves."""
        route = self.routes.get(type(request))
        if route is None:
            raise InvalidRequest(f"no family serves {type(request).__name__}")
        return route

    async def call(self, request: InferRequest, context: RequestContext, route: Route) -> InferResponse:
        """Raises Overloaded, Unavailable, DeadlineExceeded, and what `Catalog.find` raises."""
        return await self._answered(self._submit(request, context, route, None), route)

    async def stream(self, request: InferRequest, context: RequestContext, route: Route) -> AsyncGenerator[Reply, None]:
        """The same in parts: chunks, then the response. Closing it takes the request back."""
        chunks: asyncio.Queue[Chunk | None] = asyncio.Queue()
        pending = self._submit(request, context, route, chunks.put_nowait)
        answer = asyncio.create_task(self._answered(pending, route))
        answer.add_done_callback(lambda _: chunks.put_nowait(None))
        try:
            while (chunk := await chunks.get()) is not None:
                # Whoever takes them slowly gets together what came meanwhile.
                ended = False
                while not chunks.empty() and not ended:
                    later = chunks.get_nowait()
                    ended = later is None
                    chunk = chunk if later is None else chunk.joined(later)
                yield chunk
                if ended:
                    break
            yield await answer
        finally:
            answer.cancel()

    def _submit(self, request: InferRequest, context: RequestContext, route: Route, tell: OnChunk | None) -> Pending:
        model = self.catalog.find_model(request.model_id, route.family) if route.has_models else None
        if model is not None:
            request = model.manifest.with_defaults(request)
        timeout_s = context.caller.remaining_s(route.settings.deadline_s)
        call_id = f"{self._name}-{next(self._numbers)}"
        pending = Pending(
            Call(request.repeatable(), context.request_id, timeout_s, model, tell is not None, call_id), tell
        )
        gate = self._admissions[route.family].gate(model.name if model else "")
        ticket = gate.enter(context.caller, timeout_s, partial(self._send, pending, route))
        pending.response.add_done_callback(lambda _: gate.leave(ticket))
        return pending

    def _send(self, pending: Pending, route: Route) -> None:
        model = pending.call.model
        line = self._lines[route.family].choose(model.name if model else "")
        if line is not None:
            line.submit(pending)
        else:
            self._lane(route, model).submit(pending)

    def _lost(self, route: Route, pendings: Sequence[Pending]) -> None:
        """Their replica is gone. Serve's handle waits for another, if need be."""
        for pending in pendings:
            self._lane(route, pending.call.model).retry([pending])

    async def _answered(self, pending: Pending, route: Route) -> InferResponse:
        try:
            async with asyncio.timeout(pending.call.timeout_s):
                return await pending.response
        except TimeoutError:
            if pending.arrived or not pending.submitted:
                raise DeadlineExceeded("no answer within the deadline") from None
            raise Unavailable(f"no replica of {route.family} took the request within the deadline") from None

    def _lane(self, route: Route, model: Model | None) -> HandleTransport:
        key = (route.family, model.name if model else "")
        lane = self._lanes.get(key)
        if lane is None:
            if len(self._lanes) >= SWEEP_LANES:
                self._lanes = {key: lane for key, lane in self._lanes.items() if not lane.idle}

            async def cancel(call_ids: Sequence[str]) -> None:
                await broadcast(self.handles[route.family], "cancel", call_ids)

            lane = self._lanes[key] = HandleTransport(self.exchanges[route.family], cancel)
        return lane

    async def ready(self) -> bool:
        """Whether every family that keeps replicas has one that can answer."""
        needed = [route for route in self.routes.values() if not route.may_be_empty]
        try:
            async with asyncio.timeout(CONTROL_TIMEOUT_S):
                await asyncio.gather(*(self.handles[route.family].ready.remote() for route in needed))
        except (TimeoutError, BackPressureError, *LOST):
            return False
        return True

    async def measurements(self) -> list[ModelReport]:
        """What every replica reports of its models."""
        families = [route.family for route in self.routes.values() if route.has_models]
        answers = await asyncio.gather(*(broadcast(self.handles[family], "measurements") for family in families))
        return [one for replicas in answers for measured in replicas for one in measured]

    async def gpus(self) -> dict[str, float]:
        """Utilisation in percent of every GPU in use, by its unique id."""
        families = [route.family for route in self.routes.values() if route.on_gpu]
        answers = await asyncio.gather(*(broadcast(self.handles[family], "gpu_utilization") for family in families))
        return {gpu: percent for replicas in answers for gpus in replicas for gpu, percent in gpus.items()}


def _replicas(handle: DeploymentHandle[Any]) -> Mapping[Any, object]:
    """The replicas that the handle knows of, by id. Serve has no public way to ask."""
    router = getattr(getattr(handle, "_router", None), "_asyncio_router", None)
    return getattr(getattr(router, "_request_router", None), "curr_replicas", _NONE)


_NONE: Mapping[Any, object] = {}


def _count(known: Known) -> int:
    return len(known())
