"""From a checked request to its response: the family and the model, the call, the transport, one repeat.

Knows nothing of admission: a call that is sent has its slot.
"""

import asyncio
import itertools
import logging
import math
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from deployments.contract.errors import DeadlineExceeded, InvalidRequest, Unavailable
from deployments.contract.generation import filled
from deployments.contract.settings import FamilySettings
from deployments.contract.text_generation import SamplingDefaults
from deployments.contract.types import InferRequest, InferResponse
from deployments.replica.calls import Call, ReplicaLost, Reply, TimeLimit
from deployments.repository.model import Model
from serve_app.access.caller import Caller, RequestContext
from serve_app.dispatch.pending import Pending, PendingStream
from serve_app.dispatch.replica_pool import ReplicaPool

logger = logging.getLogger("model_runtime.dispatch")

PendingT = TypeVar("PendingT", bound=Pending)


class ModelTable(Protocol):
    @property
    def models(self) -> Mapping[str, Model]: ...


class Registry(Protocol):
    """The models that exist, as far as this process knows."""

    @property
    def table(self) -> ModelTable: ...

    async def find_model(self, model_id: str, family: str) -> Model:
        """Raises ModelNotFound, WrongFamily, ModelLoadFailed, and Unavailable before the first table is there."""


@dataclass(frozen=True, slots=True)
class Route:
    """What the ingress knows of a family."""

    family: str
    request: type[InferRequest]
    has_models: bool
    """False for a family that answers without the repository."""
    settings: FamilySettings
    work: Callable[[Any], float] = lambda request: 1.0
    """How much there is to compute for a request: `Family.work`."""

    @property
    def on_gpu(self) -> bool:
        return bool(self.settings.num_gpus)

    @property
    def may_be_empty(self) -> bool:
        """Whether the family may have no replica at times."""
        return self.settings.autoscaling.min_replicas == 0

    @property
    def folder_defaults(self) -> bool:
        """Whether generation_config.json holds where a model.yaml says nothing of it."""
        return getattr(self.settings, "folder_defaults", True)


class Dispatcher:
    """Makes calls of requests, and sends them to the replicas of their families."""

    def __init__(self, routes: Iterable[Route], pools: Mapping[str, ReplicaPool], registry: Registry) -> None:
        self.use(routes)
        self.pools = pools
        self.registry = registry
        self._name = uuid.uuid4().hex[:8]
        self._numbers = itertools.count()

    def use(self, routes: Iterable[Route]) -> None:
        """Their settings hold from the next call on."""
        self.routes = {route.request: route for route in routes}

    async def prepare(self, request: InferRequest, context: RequestContext) -> Pending:
        """Raises InvalidRequest for a variant that no family serves, and what `find_model` raises."""
        return await self._prepared(Pending, request, context)

    async def prepare_stream(self, request: InferRequest, context: RequestContext) -> PendingStream:
        return await self._prepared(PendingStream, request, context)

    async def send(self, call: Pending) -> InferResponse:
        """Raises Overloaded, Unavailable, DeadlineExceeded."""
        pool = self.pools[call.family]
        limit, now = call.limit, asyncio.get_running_loop().time()
        # The call may have waited for its slot.
        call.call = replace(call.call, timeout_s=max(limit.at - now, 0.0), total_s=max(limit.ends_at - now, 0.0))
        try:
            async with asyncio.timeout_at(limit.at) as limit.timeout:
                try:
                    return await pool.pick(call.model).send(call)
                except ReplicaLost:
                    logger.warning("request %s: its replica was lost", call.call.request_id)
                    call.repeat()
                    limit.put_off()
                    return await pool.pick_again(call.model).send(call)
        except ReplicaLost:
            raise Unavailable("the replica was lost, twice") from None
        except TimeoutError:
            if call.arrived:
                silent = limit.silence_s is not None and limit.at < limit.ends_at
                late = f"no text for {limit.silence_s:g} s" if silent else "no answer within the deadline"
                raise DeadlineExceeded(late) from None
            raise Unavailable(f"no replica of {call.family} took the request within the deadline") from None

    async def stream(self, call: PendingStream) -> AsyncGenerator[Reply, None]:
        """Chunks, then the response. Raises what `send` raises; closing it cancels the call."""
        response = asyncio.get_running_loop().create_task(self.send(call))
        response.add_done_callback(lambda _: call.end())
        try:
            while (chunk := await call.next_chunk()) is not None:
                yield chunk
            yield await response
        finally:
            response.cancel()

    async def _prepared(self, kind: type[PendingT], request: InferRequest, context: RequestContext) -> PendingT:
        route = self.routes.get(type(request))
        if route is None:
            raise InvalidRequest(f"no family serves {type(request).__name__}")
        model = await self._model(request.model_id, route.family) if route.has_models else None
        if model is not None and isinstance(request, SamplingDefaults):
            request = request.model_copy(update=_defaults(request, model, route, context.left_open))
        stream = issubclass(kind, PendingStream)
        limit, timeout_s = _limit_of(route.settings, context.caller, stream)
        call = Call(
            request.repeatable(context.request_id),
            context.request_id,
            timeout_s,
            model,
            stream,
            f"{self._name}-{next(self._numbers)}",
            limit.silence_s,
        )
        return kind(
            call=call,
            family=route.family,
            model=model.name if model else "",
            caller=context.caller,
            limit=limit,
        )

    async def _model(self, model_id: str, family: str) -> Model:
        model = self.registry.table.models.get(model_id)
        if model is None or model.problem is not None or model.family != family:
            return await self.registry.find_model(model_id, family)  # waits for the first table, or raises the reason
        return model


def _defaults(
    request: SamplingDefaults, model: Model, route: Route, left_open: Mapping[str, object]
) -> dict[str, object]:
    """What the request does not say: by model.yaml, then by the model's folder, then by the request's protocol."""
    manifest = model.manifest
    sources: list[SamplingDefaults] = [manifest.generation]
    if route.folder_defaults if manifest.folder_defaults is None else manifest.folder_defaults:
        sources.append(model.generation)
    sources = [source for source in sources if source.model_fields_set]
    return filled(request, sources, left_open) if sources or left_open else {}


def _limit_of(settings: FamilySettings, caller: Caller, stream: bool) -> tuple[TimeLimit, float]:
    """The call's limit, and the seconds until it.

    A caller's deadline bounds the whole of a call. The family's own bounds an answer, and the silence of a stream.
    """
    now = asyncio.get_running_loop().time()
    left_s = math.inf if caller.deadline_at is None else caller.deadline_at - time.monotonic()
    timeout_s = settings.deadline_s if caller.deadline_at is None else min(left_s, settings.longest_deadline_s)
    if stream:
        return TimeLimit(now + timeout_s, now + left_s, timeout_s), timeout_s
    return TimeLimit(now + timeout_s, now + timeout_s), timeout_s
