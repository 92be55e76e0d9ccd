"""One load for all callers that wait for a model. Knows nothing of models that are in memory already.

A load goes through these steps: validate the folder, reserve memory, build the engine, confirm its measured size.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic

from deployments.contract.errors import DeadlineExceeded, ModelLoadFailed, OutOfMemory, ServingError
from deployments.repository.model import Model
from deployments.residency.engine import EngineT, Resident
from deployments.residency.history import Failure
from deployments.residency.ledger import MIB
from deployments.residency.load_queue import LoadRequest
from deployments.residency.memory import MemoryManager

logger = logging.getLogger("model_runtime.residency")

MEMORY_WAIT_SHARE = 0.9
"""Of its time a request may wait for memory. More makes refusals rarer, less leaves more time to load the model and to
answer. Not measured."""
PROTECTED_LOADS = 0.25
"""A model is not evicted before it was in memory for this multiple of its load time. Longer prevents thrashing between
two models, but protects models of low score while valuable ones are evicted: 0.27 loads a request with ¼, 0.32 with 1
(docs/residency.md, "The eviction score"; `python -m benchmarks.residency thrashing` shows two models)."""
PROTECTED_AT_MOST_S = 15.0
"""Bounds the wait of others for a model that loads slowly. Not measured."""


@dataclass(eq=False)
class _Load(Generic[EngineT]):
    """A load in progress and its callers."""

    request: LoadRequest
    callers: int = 0
    task: "asyncio.Task[None]" = field(init=False)
    error: ServingError | None = None
    resident: Resident[EngineT] | None = None
    """Set at the end of a load that succeeded; from then on each caller has a lease."""


class ModelLoader(Generic[EngineT]):
    """`validate` raises what is wrong with a model's folder, `build` makes its engine; both are called in threads."""

    def __init__(
        self, memory: MemoryManager[EngineT], build: Callable[[Model], EngineT], validate: Callable[[Model], object]
    ) -> None:
        self.memory = memory
        self.build = build
        self.validate = validate
        self.clock = memory.clock
        self.loads: dict[str, _Load[EngineT]] = {}

    async def lease(self, model: Model, deadline: float) -> Resident[EngineT]:
        """Load the model, or wait for its load, and take one lease of it.

        Raises ModelLoadFailed, OutOfMemory, Overloaded where leases hold the memory, DeadlineExceeded.
        """
        if (failure := self.memory.history[model.key].failure_at(self.clock())) is not None:
            raise failure.error_at(self.clock())
        load = self.loads.get(model.key) or self._begin(model)
        load.callers += 1
        try:
            return await self._outcome(load, deadline)
        except BaseException:
            self._abandon(load)
            raise

    async def close(self) -> None:
        """Withdraw the requests that wait for memory, and wait for the loads that have it."""
        loads = list(self.loads.values())
        for load in loads:
            load.request.granted.cancel()
        await asyncio.gather(*(load.task for load in loads), return_exceptions=True)

    def _begin(self, model: Model) -> _Load[EngineT]:
        load: _Load[EngineT] = _Load(self._request(model))
        load.task = asyncio.create_task(self._run(load))
        self.loads[model.key] = load
        return load

    async def _outcome(self, load: _Load[EngineT], deadline: float) -> Resident[EngineT]:
        """What the load came to, within the caller's time."""
        request = load.request  # A load may replace it by a larger one; its callers wait for memory once.
        wait_s = (deadline - self.clock()) * MEMORY_WAIT_SHARE
        await asyncio.wait({load.task, request.granted}, timeout=wait_s, return_when="FIRST_COMPLETED")
        if request.queued_at is not None and not request.granted.done():
            raise self.memory.overloaded(request)
        await asyncio.wait({load.task}, timeout=deadline - self.clock())
        if not load.task.done():
            raise DeadlineExceeded(f"{request.model.name} is still being loaded")
        load.task.result()  # Raises only where our own code is at fault.
        if load.error is not None:
            raise load.error.again()
        assert load.resident is not None
        return load.resident

    def _abandon(self, load: _Load[EngineT]) -> None:
        """One caller fewer. A request for memory that nobody waits for is withdrawn; a load that has it goes on."""
        load.callers -= 1
        key = load.request.model.key
        if load.resident is not None:  # The caller was cancelled after it had got its lease.
            self.memory.release(key)
        elif not load.callers and load.request.granted.cancel() and self.loads.get(key) is load:
            del self.loads[key]

    async def _run(self, load: _Load[EngineT]) -> None:
        key = load.request.model.key
        try:
            load.resident = await self._load(load)
            # Each caller gets its lease here and not when it wakes: another load could evict the model before.
            for _ in range(load.callers):
                self.memory.ledger.lease(key)
        except ServingError as error:
            load.error = error
        finally:
            if self.loads.get(key) is load:
                del self.loads[key]
            self.memory.grant_waiting()

    async def _load(self, load: _Load[EngineT]) -> Resident[EngineT]:
        model = load.request.model
        record = self.memory.history[model.key]
        try:  # Before memory is reserved: a broken folder evicts no model.
            await self.memory.threads.validate(lambda: self.validate(model))
        except Exception as cause:
            raise self._remembered(model, cause) from cause
        while True:
            await self._reserve(load.request)
            engine, seconds = await self._build(model)
            try:
                size = await self.memory.confirm_size(load.request, engine)
                break
            except OutOfMemory as cause:
                if not load.callers or self.memory.history.size_of(model) > self.memory.ledger.budget_bytes:
                    raise self._remembered(model, cause) from None
            # It is larger than declared, or others have grown meanwhile: once more, with the measured size.
            load.request = self._request(model)
        record.add_load(seconds, size)
        record.last_use = time.time()  # The load counts as a use.
        logger.info("loaded %s: %.1f MiB in %.2f s", model.name, size / MIB, seconds)
        protected_s = min(PROTECTED_LOADS * seconds, PROTECTED_AT_MOST_S)
        return self.memory.add_ready(model, engine, self.clock() + protected_s)

    async def _reserve(self, request: LoadRequest) -> None:
        model = request.model
        try:
            await self.memory.reserve(request)
        except OutOfMemory as never:
            # Shown in the status, but not for any time: a refusal costs nothing, and pins may change.
            killed = "; the kernel has killed a replica with it" if self.memory.history.outgrown(model.key) else ""
            error = OutOfMemory(f"{model.name}: {never.message}{killed}")
            self.memory.history[model.key].failure = Failure(error, 0.0, self.clock())
            raise error from None

    async def _build(self, model: Model) -> tuple[EngineT, float]:
        """The engine, and how many seconds it took."""

        def build() -> EngineT:
            engine = self.build(model)
            self.memory.device_memory.give_back()  # What only the load needed.
            return engine

        started = self.clock()
        try:
            engine = await self.memory.threads.load(build)
        except Exception as cause:
            self.memory.ledger.forget(model.key)
            raise self._remembered(model, cause) from cause
        return engine, self.clock() - started

    def _request(self, model: Model) -> LoadRequest:
        self.memory.history.learn(model)
        return LoadRequest(model, self.memory.history.size_of(model), asyncio.get_running_loop().create_future())

    def _remembered(self, model: Model, cause: Exception) -> ServingError:
        """The failure as its callers get it, now and until its back-off has ended."""
        if isinstance(cause, ServingError):
            error = cause.saying(f"{model.name}: {cause.message}")
        else:
            logger.error("loading %s failed", model.name, exc_info=cause)
            error = ModelLoadFailed.for_now(f"{model.name}: {type(cause).__name__} while loading")
        return self.memory.history[model.key].add_failure(error, self.clock()).error_at(self.clock())
