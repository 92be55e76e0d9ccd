"""From a checked request to its response: the family and the model, the call, the transport, repeats.

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

from deployments.contract.errors import DeadlineExceeded, InputQuarantined, InvalidRequest, OutOfMemory, Unavailable
from deployments.contract.generation import filled
from deployments.contract.settings import FamilySettings
from deployments.contract.status import Suspect
from deployments.contract.text_generation import SamplingDefaults
from deployments.contract.types import InferRequest, InferResponse
from deployments.replica.calls import Call, Progress, ReplicaLost, Reply, TimeLimit
from deployments.replica.launcher_profile import LauncherProfile
from deployments.repository.model import Model
from deployments.system.oom_kills import OomWatch
from serve_app.access.caller import Caller, RequestContext
from serve_app.dispatch.pending import Pending, PendingStream
from serve_app.dispatch.replica_pool import ReplicaPool
from serve_app.dispatch.trial import MOST_DEATHS, MOST_LOSSES, digest_of

logger = logging.getLogger("model_runtime.dispatch")

PendingT = TypeVar("PendingT", bound=Pending)


class ModelTable(Protocol):
    @property
    def models(self) -> Mapping[str, Model]: ...
    @property
    def quarantined(self) -> Mapping[str, frozenset[str]]:
        """The digests of the inputs that are refused, by model; by family where that has no models."""


class Registry(Protocol):
    """The models that exist, as far as this process knows."""

    @property
    def table(self) -> ModelTable: ...

    async def find_model(self, model_id: str, family: str) -> Model:
        """Raises ModelNotFound, WrongFamily, ModelLoadFailed, and Unavailable before the first table is there."""

    async def died_alone(self, suspect: Suspect) -> bool:
        """Counts a death of a replica while it computed this input alone. Whether the input is refused from now on."""

    def answered_alone(self, digest: str) -> None:
        """Forgets the deaths of an input that is not refused yet."""


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
        """Whether generation_config.json has defaults, where model.yaml does not decide it."""
        return getattr(self.settings, "folder_defaults", True)


class Dispatcher:
    """Makes calls of requests, and sends them to the replicas of their families."""

    def __init__(
        self,
        routes: Iterable[Route],
        pools: Mapping[str, ReplicaPool],
        registry: Registry,
        profile: LauncherProfile | None = None,
        oom: OomWatch | None = None,
    ) -> None:
        """`profile`: of this machine's replicas."""
        self.use(routes)
        self.pools = pools
        self.registry = registry
        self._profile = profile
        self._oom = OomWatch() if oom is None else oom
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
                transport = pool.pick(call.model)
                while True:
                    try:
                        response = await transport.send(call)
                    except ReplicaLost as lost:
                        await self._try_again(call, lost)
                        limit.put_off()
                        transport = pool.pick_again(call.model)
                    else:
                        if call.trial.alone:
                            self.registry.answered_alone(_digest(call))
                        return response
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

    async def _try_again(self, call: Pending, lost: ReplicaLost) -> None:
        """Prepares the call for another replica. Raises InputQuarantined, OutOfMemory and Unavailable."""
        self._see_whether_alone(call)
        trial, request_id = call.trial, call.call.request_id
        starved = not lost.crash and self._oom.just_now()
        trial.lost(call.progress, bool(lost.crash), starved)
        how = "crashed" if lost.crash else "was killed for want of memory" if starved else "was lost"
        alone = ", with nothing else to compute" if call.progress is Progress.ALONE else ""
        logger.warning("request %s: its replica %s%s", request_id, how, alone)
        if trial.too_large:
            raise OutOfMemory("a replica that computed this request and nothing else was killed for want of memory")
        if call.progress is Progress.ALONE and not starved:
            suspect = Suspect(_digest(call), call.model or call.family, call.family, request_id)
            refused = await self.registry.died_alone(suspect)
            if refused or trial.deaths >= MOST_DEATHS:
                logger.error("request %s: its input, %s, is refused: replicas end with it", request_id, suspect.digest)
                call.condemned = refused
                raise _refusal(suspect.digest)
        if trial.losses >= MOST_LOSSES:
            raise Unavailable(f"the replica was lost, {trial.losses} times")
        call.repeat()
        call.call = replace(call.call, alone=trial.alone)

    def _see_whether_alone(self, call: Pending) -> None:
        """A file on this machine marks it: messages may be late, and an answer be lost with what is computed next."""
        if call.call.alone and self._profile:
            mark = self._profile.alone_file(call.call.call_id)
            if mark.exists():
                call.progress = Progress.ALONE
                mark.unlink(missing_ok=True)
            elif call.replica and self._profile.socket(call.replica).exists():
                call.progress = Progress.HELD

    def _refuse_quarantined(self, call: Pending) -> None:
        refused = self.registry.table.quarantined.get(call.model or call.family)
        if refused and (digest := _digest(call)) in refused:
            raise _refusal(digest)

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
        name = model.name if model else ""
        pending = kind(call=call, family=route.family, model=name, caller=context.caller, limit=limit)
        self._refuse_quarantined(pending)
        return pending

    async def _model(self, model_id: str, family: str) -> Model:
        model = self.registry.table.models.get(model_id)
        if model is None or model.problem is not None or model.family != family:
            return await self.registry.find_model(model_id, family)  # waits for the first table, or raises the reason
        return model


def _digest(call: Pending) -> str:
    return digest_of(call.call.request, call.call.model.digest if call.call.model else "")


def _refusal(digest: str) -> InputQuarantined:
    return InputQuarantined(f"two replicas ended while they computed this input and nothing else (digest {digest})")


def _defaults(
    request: SamplingDefaults, model: Model, route: Route, left_open: Mapping[str, object]
) -> dict[str, object]:
    """The fields that the request leaves out: from model.yaml, then the model's folder, then the request's protocol."""
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
