"""What every family's replica does alike: find the model, lease it, answer, and turn every failure into an Error."""

import abc
import asyncio
import logging
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, cast

from deployments.calls import Call, Tell
from deployments.errors import ServingError
from deployments.gpus import gpu_utilization
from deployments.protocol import InferRequest, InferResponse
from deployments.replica import Replica
from deployments.repository import Model, Repository
from deployments.residency import MIB, Engine, Residency, ResidentStatus
from deployments.settings import FamilySettings

logger = logging.getLogger("model_runtime.family")

EngineT = TypeVar("EngineT", bound=Engine)
RequestT = TypeVar("RequestT", bound=InferRequest)


@dataclass(frozen=True, slots=True)
class ReplicaOptions:
    """What a replica is told when it starts."""

    family: str
    models: Path
    architectures: dict[str, str]
    settings: FamilySettings


class FamilyReplica(Replica, Generic[RequestT, EngineT]):
    """One replica of a family that serves models from the repository."""

    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__()
        self.options = options
        self.settings = options.settings
        self.cores = limit_cores(options.settings.max_cpu_share)
        self.repository = Repository(options.models, options.architectures)
        self.residency = Residency(options.settings.required_mem_mb * MIB, self.load)
        self._preloading: asyncio.Task[None] | None = None

    @abc.abstractmethod
    def load(self, model: Model) -> EngineT:
        """The model, ready to answer. Called in a thread."""

    @abc.abstractmethod
    async def answer(self, request: RequestT, model: Model, engine: EngineT, tell: Tell | None) -> InferResponse:
        """The answer; `tell` takes its chunks, where they are wanted. Raises ServingError; leaves nothing running when
        cancelled."""

    async def infer(self, call: Call, tell: Tell | None = None) -> InferResponse:
        assert call.model is not None
        async with asyncio.timeout(call.timeout_s), self.residency.lease(call.model, call.timeout_s) as engine:
            # Dispatch sends each family its own variant.
            return await self.answer(cast(RequestT, call.request), call.model, engine, tell)

    async def ready(self) -> bool:
        """True once the models to preload are there, or known to have failed."""
        if self._preloading is None:
            self._preloading = asyncio.create_task(self._preload())
        await asyncio.shield(self._preloading)
        return True

    async def _preload(self) -> None:
        for model_id in self.settings.preload:
            try:
                model = self.repository.find(model_id, self.options.family)
                async with self.residency.lease(model, self.settings.deadline_s):
                    pass
            except ServingError as failure:
                logger.error("preload: %s", failure.message)

    async def statuses(self) -> list[ResidentStatus]:
        return self.residency.statuses()

    def gpu_utilization(self) -> dict[str, float]:
        return gpu_utilization()


def limit_cores(share: float) -> int:
    """Confines this process to its share of the cores it may use, at least one. Returns how many."""
    allowed = sorted(os.sched_getaffinity(0))
    cores = max(1, int(share * len(allowed)))
    if cores < len(allowed):
        # Any of them, so that replicas do not crowd on the first.
        os.sched_setaffinity(0, random.sample(allowed, cores))
    return cores
