"""What every family's replica does alike: find the model, lease it, answer, and turn every failure into an Error."""

import abc
import asyncio
import logging
import os
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar, cast

import psutil

from deployments.calls import Call, Tell
from deployments.errors import ModelLoadFailed, ServingError
from deployments.failures import error_of
from deployments.gpus import gpu_utilization
from deployments.measures import Measured
from deployments.model_gate import Gate
from deployments.place import replica_name
from deployments.proofs import Proofs
from deployments.protocol import Error, InferRequest, InferResponse
from deployments.replica import Replica
from deployments.repository import Model, Repository
from deployments.residency import MIB, Engine, Residency
from deployments.residency_status import Plan, ReplicaStatus, ResidentStatus
from deployments.settings import DEFAULT_CACHE, FamilySettings

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
    cache: Path = DEFAULT_CACHE


class FamilyReplica(Replica, Generic[RequestT, EngineT]):
    """One replica of a family that serves models from the repository."""

    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__()
        self.options = options
        self.settings = options.settings
        self.cores = limit_cores(options.settings.max_cpu_share)
        self.repository = Repository(options.models, options.architectures)
        self.gate = Gate(options.models, options.cache)
        self.residency = Residency(options.settings.required_mem_mb * MIB, self._admit_and_load)
        self.proofs = Proofs(self.gate, self._ask)
        self._preloading: asyncio.Task[None] | None = None
        self._resting_bytes = psutil.Process().memory_info().rss

    @abc.abstractmethod
    def load(self, model: Model) -> EngineT:
        """The model, ready to answer. Called in a thread."""

    def _admit_and_load(self, model: Model) -> EngineT:
        return self.load(replace(model, folder=self.gate.admit(model)))

    @abc.abstractmethod
    async def answer(self, request: RequestT, model: Model, engine: EngineT, tell: Tell | None) -> InferResponse:
        """The answer; `tell` takes its chunks, where they are wanted. Raises ServingError; leaves nothing running when
        cancelled."""

    def batch_limit(self, model: Model) -> int:
        """The largest batch that the family and the model allow."""
        return min(self.settings.max_batch_size, model.manifest.max_batch_size or self.settings.max_batch_size)

    async def infer(self, call: Call, tell: Tell | None = None) -> InferResponse:
        assert call.model is not None
        async with asyncio.timeout(call.timeout_s):
            await self.proofs.hold(call.model)
            async with self.residency.lease(call.model, call.timeout_s) as engine:
                # Dispatch sends each family its own variant.
                return await self.answer(cast(RequestT, call.request), call.model, engine, tell)

    async def _ask(self, request: InferRequest, model: Model) -> InferResponse:
        async with self.residency.lease(model, self.settings.deadline_s) as engine:
            return await self.answer(cast(RequestT, request), model, engine, None)

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
        return [self.proofs.shown(status) for status in self.residency.statuses()]

    async def replica_status(self) -> ReplicaStatus:
        """Its budget, its models, and what its process takes."""
        process, accounted = psutil.Process().memory_info().rss, self.residency.ledger.used_bytes
        return ReplicaStatus(
            replica=replica_name(),
            family=self.options.family,
            pid=os.getpid(),
            budget_bytes=self.residency.budget_bytes,
            accounted_bytes=accounted,
            resting_bytes=self._resting_bytes,
            process_bytes=process,
            overhead_bytes=process - self._resting_bytes - accounted,
            leaked_bytes=0,
            cpu_s=time.process_time(),
            models=tuple(await self.statuses()),
        )

    async def load_model(self, model: Model, timeout_s: float) -> Error | None:
        """In memory and held to its golden examples when this returns, or why not."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.proofs.hold(model)
                async with self.residency.lease(model, timeout_s):
                    return None
        except Exception as cause:
            if isinstance(cause, ModelLoadFailed):
                await self.residency.unload(model)
            return error_of(cause, "")

    async def unload_model(self, model: Model) -> bool:
        """Whether it was in memory; requests under way keep it until they end."""
        return await self.residency.unload(model)

    async def pin(self, model: Model, pinned: bool) -> None:
        """A pinned model is never evicted. Holds for this replica's life, also before the model is loaded."""
        self.residency.pin(model, pinned)

    async def plan(self, model: Model) -> Plan:
        """What loading it would take now."""
        return self.residency.plan(model, replica_name())

    async def measurements(self) -> list[Measured]:
        """What this family measures of its models."""
        return []

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
