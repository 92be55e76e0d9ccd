"""A replica whose family has models: it validates a call's model, leases its engine and answers, within the deadline.

Knows neither HTTP nor tensors: a family defines how a model is loaded and how its engine answers.
"""

import abc
import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Generic, TypeVar, cast

from deployments.contract.errors import ModelLoadFailed
from deployments.contract.failures import error_of
from deployments.contract.settings import FamilySettings
from deployments.contract.status import Plan, ProcessStatus, ReplicaStatus, ResidentStatus
from deployments.contract.types import Error, InferRequest, InferResponse
from deployments.metrics.meter import BATCH, COMPUTE, LOAD, Instrument, Meter
from deployments.metrics.samples import ModelReport
from deployments.replica.budget import Budget
from deployments.replica.calls import Call, Holdings, OnChunk, TimeLimit
from deployments.replica.context import asked_of_peers, replica_name
from deployments.replica.gpu import gpu_utilization
from deployments.replica.measurements import reports_of
from deployments.replica.options import ReplicaOptions as ReplicaOptions
from deployments.replica.preload import fitting, to_preload
from deployments.replica.replica import Replica, Workload, note, timed
from deployments.repository.model import Model
from deployments.residency.engine import Engine
from deployments.residency.footprint import STATED_OVERHEAD, Footprint
from deployments.residency.health import problem_of
from deployments.residency.ledger import Ledger
from deployments.residency.oom_record import OomRecord
from deployments.residency.residency import Residency
from deployments.system.cache_folder import cache_folder, home
from deployments.system.cpu import CpuMeter, limit_cores
from deployments.system.process_memory import Memory
from deployments.validation.golden_validator import GoldenValidator
from deployments.validation.validator import ModelValidator

logger = logging.getLogger("ray.serve")  # Whose lines Ray keeps.

SWEEP_EVERY_S = 1.0
IN_USE_S = 60.0
"""A model that was used within this time is loaded by a replica that is added, before it takes requests."""

EngineT = TypeVar("EngineT", bound=Engine)
RequestT = TypeVar("RequestT", bound=InferRequest)


class ModelReplica(Replica, Generic[RequestT, EngineT]):
    """One replica of a family that serves models from the repository."""

    stated_overhead = STATED_OVERHEAD

    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__()
        self.workload = Workload(self.side_by_side(options.settings), work=options.family.work)
        self.options = options
        self.settings = options.settings
        self.cores = limit_cores(options.settings.max_cpu_share)
        self.cache = cache_folder(options.cache)
        logger.info("caches in %s", self.cache)
        if home() is None:
            # `import openvino` fails without one: findings/openvino_import_needs_a_home.sh.
            os.environ.setdefault("HOME", str(self.cache))
        self.validator = ModelValidator(options.models, self.cache, link_targets=options.link_targets)
        self.cpu = CpuMeter()
        self.meter = Meter(replica_name())
        self.budget = Budget(options.family.name, options.settings, self.cache)
        self.residency = Residency(
            Ledger(self.budget.limit()),
            self._validate_and_load,
            self.validator.validate,
            idle_s=options.settings.unload_idle_s,
        )
        self.footprint = Footprint(self.residency.memory.device_memory, self.residency.ledger, self.stated_overhead)
        self.oom_record = OomRecord(self.cache, self.footprint)
        self.residency.history.outgrown = self.oom_record.size_of
        self.residency.memory.changed = self.report_holdings
        self.device = "cpu"
        self.golden = GoldenValidator(self.validator.validate, options.family.golden, self._answer_golden)
        self._has_models = False  # That the budget knows of.
        self._preloading: asyncio.Task[None] | None = None
        self._loading_more: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None

    @staticmethod
    def side_by_side(settings: FamilySettings) -> int:
        """How many calls it works on at once, each about as fast as alone."""
        return 1

    def use(self, settings: FamilySettings) -> None:
        """These hold from now on. They differ from those of the start in what need not be read there."""
        self.settings = settings
        self.residency.idle_s = settings.unload_idle_s

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        preloaded = set(self.settings.preload)
        self.options = self.options.changed(user_config)
        self.validator.root = self.options.models
        self.use(self.options.settings)
        if self._preloading is not None and set(self.settings.preload) - preloaded:
            self._loading_more = asyncio.create_task(self._preload())  # It is ready meanwhile.

    @abc.abstractmethod
    def load(self, model: Model) -> EngineT:
        """The model's engine, ready to answer. Called in a thread. Raises ServingError."""

    @abc.abstractmethod
    async def answer(self, request: RequestT, model: Model, engine: EngineT, on_chunk: OnChunk | None) -> InferResponse:
        """The answer. `on_chunk`, where the caller wants chunks, takes them as they come. Raises ServingError; leaves
        nothing running when cancelled."""

    async def answer_by(
        self, ends_at: float, request: RequestT, model: Model, engine: EngineT, on_chunk: OnChunk | None
    ) -> InferResponse:
        """`answer`. At `ends_at`, on the loop's clock, it is cancelled: a family that can ends with what there is."""
        return await self.answer(request, model, engine, on_chunk)

    def counted(self, call: Call) -> AbstractContextManager[None]:
        return nullcontext()  # `infer` counts it once its model is there: waiting for that is no work.

    async def infer(self, call: Call, on_chunk: OnChunk | None = None) -> InferResponse:
        assert call.model is not None
        self._apply_pin(call.model)
        now = asyncio.get_running_loop().time()
        longest_s = call.timeout_s if call.silence_s is None else call.total_s
        limit = TimeLimit(now + min(call.timeout_s, longest_s), now + longest_s, call.silence_s)
        if call.model.manifest.golden:
            async with asyncio.timeout_at(limit.at):
                await self.golden.validate(call.model)
        # The lease keeps the limit itself: its error names what took too long.
        remaining_s = limit.at - asyncio.get_running_loop().time()
        async with self.residency.lease(call.model, remaining_s) as engine:
            note("load_s", asyncio.get_running_loop().time() - now)
            async with asyncio.timeout_at(limit.at) as limit.timeout:
                # The dispatcher sends each family its own variant.
                request, deliver = cast(RequestT, call.request), limit.put_off_by(on_chunk) if on_chunk else None
                with self.timed(COMPUTE, call.model), self.workload.job(call.model.name, request):
                    return await self.answer_by(limit.ends_at, request, call.model, engine, deliver)

    def _apply_pin(self, model: Model) -> None:
        """The registry decides on pins. Its newest decision comes with each call."""
        self.residency.apply_pin(model, model.pinned)
        if not self._has_models:
            self._has_models = True
            self.budget.has_models()

    async def _answer_golden(self, request: InferRequest, model: Model) -> InferResponse:
        async with self.residency.lease(model, self.settings.deadline_s) as engine:
            return await self.answer(cast(RequestT, request), model, engine, None)

    def _validate_and_load(self, model: Model) -> EngineT:
        # Again: the files may have changed while the load waited for memory.
        # What a load uses is no request's.
        with self.oom_record.looking(), self.cpu.working(None), self.timed(LOAD, model):
            return self.load(replace(model, folder=self.validator.validate(model)))

    def batch_limit(self, model: Model) -> int:
        """The largest batch that the family and the model allow."""
        return min(self.settings.max_batch_size, model.manifest.max_batch_size or self.settings.max_batch_size)

    async def ready(self) -> bool:
        """Whether it can answer, once the models to preload, and those in use beside it, are loaded or have failed."""
        if self._preloading is None:
            self.footprint.measure_resting_size()
            self._sweeping = asyncio.create_task(self._sweep())
            self._preloading = asyncio.create_task(self._load_first())
        await asyncio.shield(self._preloading)
        return self.problem() is None

    async def check_health(self) -> None:
        """Serve calls it before it sends a replica its first call, and every second from then on. Raises RuntimeError;
        after the third time in a row Serve replaces the replica."""
        await self.ready()
        if problem := self.problem():
            logger.error("unhealthy: %s", problem)
            raise RuntimeError(problem)

    def problem(self) -> str | None:
        """Why this process has to be replaced, if it has."""
        residents = self.residency.memory.residents.values()
        return problem_of(residents, self.settings.longest_deadline_s, [self._sweeping])

    async def _load_first(self) -> None:
        await self._preload()
        for model in fitting([model for models in await asked_of_peers("in_use") for model in models], self.residency):
            await self._load_early(model)

    async def in_use(self) -> list[Model]:
        """Its models that were used just now, the last ones first."""
        return self.residency.used_since(time.time() - IN_USE_S)

    async def _preload(self) -> None:
        try:
            models = await asyncio.to_thread(self.options.repository().models)
        except Exception:
            logger.exception("preload: the repository cannot be read")
            return
        family = self.options.family.name
        if any(model.family == family and model.problem is None for model in models.values()):
            self.budget.has_models()
            self.residency.memory.set_limit(self.budget.limit())
        for model in to_preload(models, family, self.settings.preload):
            await self._load_early(model)

    async def _load_early(self, model: Model) -> None:
        if (error := await self.load_model(model, self.settings.deadline_s)) is not None:
            logger.error("preload: %s", error.message)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            self.residency.memory.set_limit(self.budget.limit())
            self.residency.sweep()
            self.footprint.update(self.residency.memory.unloads)
            self.oom_record.look()
            self.report_holdings()

    async def statuses(self) -> list[ResidentStatus]:
        cpu = self.cpu.sample()
        statuses = [replace(status, cpu_s=cpu.get(status.name, 0.0)) for status in self.residency.statuses()]
        return [self.golden.with_verdict(status) for status in statuses]

    async def replica_status(self) -> ReplicaStatus:
        """Its memory budget, its models, and the memory of its process."""
        footprint, ledger = self.footprint, self.residency.ledger
        process = ProcessStatus(
            budget_bytes=ledger.budget_bytes,
            accounted_bytes=ledger.used_bytes,
            resting_bytes=footprint.resting_bytes,
            process_bytes=footprint.memory.held(),
            overhead_bytes=footprint.overhead_bytes,
            leaked_bytes=footprint.leaked_bytes,
        )
        return ReplicaStatus(replica_name(), process, tuple(await self.statuses()))

    async def load_model(self, model: Model, timeout_s: float) -> Error | None:
        """None once the model is in memory and its golden examples are validated; else the failure."""
        self._apply_pin(model)
        try:
            async with asyncio.timeout(timeout_s):
                await self.golden.validate(model)
                async with self.residency.lease(model, timeout_s):
                    return None
        except Exception as cause:
            if isinstance(cause, ModelLoadFailed):
                await self.residency.unload(model)
            return error_of(cause, "")

    async def load_beside(self, serving: Model, model: Model, timeout_s: float) -> None:
        """Loads the version that is about to replace `serving`, if that is in memory here."""
        if serving.name in self.residency.model_names():
            await self.load_model(model, timeout_s)

    async def unload_model(self, model: Model) -> bool:
        """Whether it was in memory. Its memory is freed once the requests under way have ended."""
        return await self.residency.unload(model)

    async def pin(self, model: Model, pinned: bool) -> None:
        """A pinned model is never evicted. Takes effect also before the model is loaded."""
        self._apply_pin(replace(model, pinned=pinned))

    async def plan(self, model: Model) -> Plan:
        """What loading it would need now."""
        return self.residency.plan(model, replica_name())

    def timed(self, instrument: Instrument, model: Model) -> AbstractContextManager[None]:
        """Observes how long the block took, unless it fails."""
        return timed(self.meter, instrument, model.name, self.options.family.name)

    def batched(self, model: Model) -> Callable[[int], None]:
        """For a Batcher: observes the size of each batch."""
        return lambda size: self.meter.observe(BATCH, float(size), model.name, self.options.family.name)

    async def measurements(self) -> list[ModelReport]:
        """The metrics of its models."""
        status, cpu = await self.replica_status(), self.cpu.sample()
        return [*reports_of(status, self.options.family.name, cpu), *self.meter.reports()]

    def use_gpu(self, gpu: Memory, total_bytes: int) -> None:
        """Keeps the models on a GPU, within `total_bytes` of it."""
        self.budget.use_gpu(total_bytes)
        self.residency.ledger.limit = self.budget.limit()
        self.residency.memory.device_memory = self.footprint.memory = gpu
        self.oom_record.use_gpu()

    def holdings(self) -> Holdings:
        ledger = self.residency.ledger
        free = round(max(0, ledger.free_bytes) / max(1, ledger.budget_bytes), 2)
        return Holdings(frozenset(self.residency.model_names()), free)

    def gpu_utilization(self) -> dict[str, float]:
        return gpu_utilization()
