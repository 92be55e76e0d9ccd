"""One call to a family: which one, within the deadline, and once more elsewhere if its replica dies."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle

from deployments.errors import InvalidRequest, Overloaded, Unavailable
from deployments.protocol import Call, InferRequest, InferResponse
from deployments.repository import Repository
from deployments.residency import ResidentStatus

logger = logging.getLogger("model_runtime.dispatch")

CONTROL_TIMEOUT_S = 5.0
LOST = (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError)


@dataclass(frozen=True, slots=True)
class Route:
    """What the ingress knows of a family."""

    family: str
    request: type[InferRequest]
    has_models: bool
    """False for a family that answers without the repository."""
    deadline_s: float
    on_gpu: bool
    may_be_empty: bool
    """True where the family may have no replica at times."""


class Dispatcher:
    """Sends calls to the families' deployments. Handles are built once."""

    def __init__(
        self, routes: tuple[Route, ...], handles: Mapping[str, DeploymentHandle[Any]], repository: Repository
    ) -> None:
        self.repository = repository
        self.routes = {route.request: route for route in routes}
        # By value: a request is small beside what a trip through the object store costs.
        self.handles = {family: handle.options(_by_reference=False) for family, handle in handles.items()}

    def route(self, request: InferRequest) -> Route:
        """Raises InvalidRequest for a variant that no family serves."""
        route = self.routes.get(type(request))
        if route is None:
            raise InvalidRequest(f"no family serves {type(request).__name__}")
        return route

    async def call(self, call: Call, route: Route) -> InferResponse:
        """Raises Overloaded, Unavailable, and what `Repository.find` raises: an unknown model troubles no replica."""
        if route.has_models:
            self.repository.find(call.request.model_id, route.family)
        give_up = time.monotonic() + call.timeout_s
        for last_try in (False, True):
            left = replace(call, timeout_s=max(give_up - time.monotonic(), 0.0))
            try:
                response: InferResponse = await self.handles[route.family].infer.remote(left)
                return response
            except BackPressureError:
                busy = Overloaded(f"{route.family} has as many requests waiting as it may")
                busy.retry_after_ms = 1000
                raise busy from None
            except LOST:
                logger.warning("request %s: a replica of %s was lost", call.request_id, route.family)
                if last_try:
                    raise Unavailable(f"the replica of {route.family} was lost, twice") from None
        raise AssertionError("unreachable")

    async def ready(self) -> bool:
        """Whether every family that keeps replicas has one that can answer."""
        needed = [route for route in self.routes.values() if not route.may_be_empty]
        try:
            async with asyncio.timeout(CONTROL_TIMEOUT_S):
                await asyncio.gather(*(self.handles[route.family].ready.remote() for route in needed))
        except (TimeoutError, BackPressureError, *LOST):
            return False
        return True

    async def residents(self) -> list[ResidentStatus]:
        """Every model in every replica. A family that does not answer in time is left out."""
        families = [route.family for route in self.routes.values() if route.has_models]
        return [status for statuses in await self._broadcast("statuses", families) for status in statuses]

    async def gpus(self) -> dict[str, float]:
        """Utilisation in percent of every GPU in use, by its unique id."""
        families = [route.family for route in self.routes.values() if route.on_gpu]
        return {
            gpu: percent for gpus in await self._broadcast("gpu_utilization", families) for gpu, percent in gpus.items()
        }

    async def _broadcast(self, method: str, families: list[str]) -> list[Any]:
        answers = await asyncio.gather(*(self._ask_all(family, method) for family in families))
        return [answer for replicas in answers for answer in replicas]

    async def _ask_all(self, family: str, method: str) -> list[Any]:
        try:
            asked = self.handles[family].broadcast(method)
            answers = await asked.results_async(timeout_s=CONTROL_TIMEOUT_S, return_exceptions=True)
        except (TimeoutError, RayServeException) as failure:
            logger.warning("%s of %s: %s", method, family, type(failure).__name__)
            return []
        # A replica on its way out raises; what is shown is what could be learnt.
        return [answer for answer in answers if not isinstance(answer, Exception)]
