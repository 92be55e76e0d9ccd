"""Which models are in memory: leases, single flight, a byte budget, remembered failures.

`MemoryManager` says who may be there and lets others go for it. `Residency` loads engines in threads while others keep
answering, and knows them by `Engine` only.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Generic

from deployments.contract.errors import (
    DeadlineExceeded,
    ModelLoadFailed,
    OutOfMemory,
    Overloaded,
    ServingError,
    Unavailable,
)
from deployments.contract.status import Plan, ResidentStatus
from deployments.repository.model import Model
from deployments.residency.eviction import CostAware, Policy
from deployments.residency.history import Failure, Record
from deployments.residency.ledger import MIB, Ledger, State
from deployments.residency.memory import LOADS_AT_ONCE, EngineT, LoadRequest, MemoryManager, in_thread
from deployments.residency.planning import key_of, name_of, plan
from deployments.system.process_memory import Memory, ProcessMemory

logger = logging.getLogger("model_runtime.residency")

ROOM_SHARE = 0.9
"""Of its time a request may wait for room: it has to be answered, too."""
STAYS_FOR_LOADS = 0.25
"""How long a model stays at least, in times of its load. Longer would make valued models leave for new ones."""
STAYS_AT_MOST_S = 15.0
"""Beyond this others need not wait for it."""


@dataclass
class _Load:
    """One load and everyone who waits for it."""

    wish: LoadRequest
    model: Model
    task: "asyncio.Task[None]"
    callers: int = 0
    holds: bool = False
    """Whether it leases the model until those who wait have it: else another load might take it before they wake."""


@dataclass
class Residency(Generic[EngineT]):
    """The models of one replica. `load` builds an engine and is called in a thread."""

    budget_bytes: int
    load: Callable[[Model], EngineT]
    validate: Callable[[Model], object] = lambda model: None
    """Raises what can be known to be wrong with a model before anything leaves for it. Called in a thread."""
    clock: Callable[[], float] = time.monotonic
    policy: Policy = field(default_factory=CostAware)
    idle_s: float | None = None
    """A model that nobody used for so long leaves; None: never for that reason."""
    memory: Memory = field(default_factory=ProcessMemory)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.budget_bytes)
        self.room: MemoryManager[EngineT] = MemoryManager(self.ledger, self.policy, self.memory, self.clock)
        self.records = self.room.records
        self._loading: dict[str, _Load] = {}
        self._pins: dict[str, bool] = {}
        self._validators = ThreadPoolExecutor(LOADS_AT_ONCE, "validate")

    @asynccontextmanager
    async def lease(self, model: Model, timeout_s: float) -> AsyncIterator[EngineT]:
        """The model's engine, loaded if need be; it stays until the lease ends.

        Raises ModelLoadFailed, OutOfMemory, Overloaded where leases hold the room, DeadlineExceeded.
        """
        key, since = key_of(model), self.clock()
        # Asked again after each load: another load may have taken the room before this caller woke.
        while (resident := self.room.residents.get(key)) is None or resident.leaving:
            await self._loaded(key, model, since + timeout_s)
        since = self.clock()
        self.policy.used(key, since)
        self.ledger.lease(key)
        try:
            yield resident.engine
        finally:
            self.ledger.release(key)
            record = self.records.of(key)
            record.last_use = time.time()
            record.leased(self.clock() - since)
            self.room.measure(key)
            self._released(key)

    def pin(self, model: Model, pinned: bool) -> None:
        """From now on, whether it is in memory or not."""
        if self._pins.get(model.name, model.manifest.pinned) == pinned:
            return
        self._pins[model.name] = pinned
        if (load := self._loading.get(key_of(model))) is not None:
            load.wish.pinned = pinned
        if (entry := self.ledger.entries.get(key_of(model))) is not None:
            entry.pinned = pinned
        self.room.look()

    async def unload(self, model: Model) -> bool:
        """Whether it was in memory; it is gone when this returns. Requests under way end first, new ones wait."""
        key = key_of(model)
        resident = self.room.residents.get(key)
        if resident is None:
            return False
        if resident.leaving is None:
            resident.leaving = asyncio.Event()
            if not self.ledger.entries[key].leases:
                self.room.evict(key)
        await resident.leaving.wait()
        return True

    def sweep(self) -> None:
        """Measures what is there, and lets go of what nobody used for long. To be called every second or so."""
        for key in list(self.room.residents):
            entry = self.ledger.entries[key]
            self.room.measure(key)
            idle_s = time.time() - (self.records.of(key).last_use or 0.0)
            if self.idle_s is not None and idle_s >= self.idle_s and entry.evictable(self.clock()):
                self.room.evict(key)
        self.records.forget_beyond(set(self.ledger.entries))

    def plan(self, model: Model, replica: str) -> Plan:
        """What loading it would take now. Changes nothing."""
        return plan(self.room, key_of(model), self._size(model), replica)

    def statuses(self) -> list[ResidentStatus]:
        return [self._status(key, record) for key, record in self.records.items()]

    def holds(self) -> list[str]:
        """Names of the models that are there or on their way."""
        return [name_of(key) for key, entry in self.ledger.entries.items() if entry.state is not State.UNLOADING]

    async def close(self) -> None:
        """Waits for loads under way, then gives everything back."""
        for load in self._loading.values():
            load.wish.room.cancel()
        await asyncio.gather(*(load.task for load in self._loading.values()), return_exceptions=True)
        await self.room.close()
        self._validators.shutdown(wait=False)

    async def _loaded(self, key: str, model: Model, give_up: float) -> None:
        """Once the model was loaded, by whomever. A caller who leaves does not take the others' load along."""
        now = self.clock()
        if (resident := self.room.residents.get(key)) and resident.leaving:
            try:
                await asyncio.wait_for(resident.leaving.wait(), give_up - now)
            except TimeoutError:
                raise Overloaded(f"{model.name} is being unloaded") from None
            now = self.clock()
        failure = self.records.of(key).failure
        if failure is not None and now < failure.until:
            raise failure.again(now)
        load = self._loading.get(key) or self._begin(key, model)
        load.callers += 1
        wish = load.wish  # Its load may come to need another one.
        try:
            await asyncio.wait(
                {load.task, wish.room}, timeout=(give_up - now) * ROOM_SHARE, return_when="FIRST_COMPLETED"
            )
            if wish.waits and not wish.room.done():
                raise self._overloaded(load)
            await asyncio.wait({load.task}, timeout=give_up - self.clock())
            if not load.task.done():
                raise DeadlineExceeded(f"{model.name} is still being loaded")
            load.task.result()
        finally:
            load.callers -= 1
            if not load.callers:
                if load.holds:
                    load.holds = False
                    self.ledger.release(key)
                    asyncio.get_running_loop().call_soon(self._released, key)
                # Nobody waits any more: where it has its room it goes on, else the next caller begins anew.
                elif load.wish.room.cancel():
                    self._loading.pop(key, None)

    def _begin(self, key: str, model: Model) -> _Load:
        room = asyncio.get_running_loop().create_future()
        wish = LoadRequest(key, self._size(model), self._pins.get(model.name, model.manifest.pinned), room)
        load = self._loading[key] = _Load(wish, model, asyncio.create_task(self._load(wish, model)))
        load.task.add_done_callback(lambda task: self._ended(key, task))
        return load

    def _released(self, key: str) -> None:
        resident = self.room.residents.get(key)
        if resident and resident.leaving and not self.ledger.entries[key].leases:
            self.room.evict(key)
        self.room.look()

    def _ended(self, key: str, task: "asyncio.Task[None]") -> None:
        if (load := self._loading.get(key)) and load.task is task:
            del self._loading[key]
        if not task.cancelled():
            task.exception()  # seen, even if every caller has left
        self.room.look()

    async def _load(self, wish: LoadRequest, model: Model) -> None:
        key, record = wish.key, self.records.of(wish.key)
        try:
            await in_thread(self._validators, lambda: self.validate(model))
        except Exception as cause:
            raise self._remembered(record, model, cause) from cause
        while True:
            try:
                await self.room.make(wish)
            except asyncio.CancelledError:
                raise Unavailable(f"{model.name}: nobody waited for it any more") from None
            except OutOfMemory as never:  # Asked anew each time: it costs nothing, and what is pinned may change.
                error = OutOfMemory(f"{model.name}: {never.message}")
                record.failure = Failure(error, 0.0, self.clock())
                raise error from None
            started = self.clock()
            try:
                engine = await self._in_own_thread(model)
                seconds = self.clock() - started
            except Exception as cause:
                self.ledger.gone(key)
                raise self._remembered(record, model, cause) from cause
            try:
                await self.room.settle(wish, model, engine)
                break
            except OutOfMemory as cause:
                measured, own = record.measured_bytes or 0, self._loading[key]
                if not own.callers or measured > self.ledger.budget_bytes:
                    raise self._remembered(record, model, cause) from None
            # It was larger than declared, or others have grown meanwhile: once more, with the room that it takes.
            wish = replace(wish, size=measured, room=asyncio.get_running_loop().create_future(), waits=False)
            own.wish = wish
        record.loaded(seconds, self.ledger.entries[key].bytes)
        record.last_use = time.time()  # The load counts as a use.
        self.room.enter(key, model, engine, self.clock() + min(STAYS_FOR_LOADS * seconds, STAYS_AT_MOST_S))
        if (load := self._loading.get(key)) is not None and load.callers:
            load.holds = True
            self.ledger.lease(key)
        logger.info("loaded %s: %.1f MiB in %.2f s", model.name, (record.measured_bytes or 0) / MIB, seconds)

    async def _in_own_thread(self, model: Model) -> EngineT:
        """A thread that ends with the load, and its team of OpenMP's with it."""

        def load() -> EngineT:
            engine = self.load(model)
            self.memory.give_back()  # What only the load needed.
            return engine

        pool = ThreadPoolExecutor(1, "load")
        try:
            return await in_thread(pool, load)
        finally:
            pool.shutdown(wait=False)

    def _overloaded(self, load: _Load) -> Overloaded:
        error = Overloaded(f"{load.model.name}: models in use hold the memory it needs")
        error.retry_after_ms = int(1000 * min(max(self.room.usual_wait_s(load.wish.size), 0.1), 60.0))
        return error

    def _remembered(self, record: Record, model: Model, cause: Exception) -> ServingError:
        if isinstance(cause, ServingError):
            error: ServingError = type(cause)(f"{model.name}: {cause.message}")
        else:
            logger.error("loading %s failed", model.name, exc_info=cause)
            error = ModelLoadFailed(f"{model.name}: {type(cause).__name__} while loading")
        return record.failed(error, self.clock()).again(self.clock())

    def _size(self, model: Model) -> int:
        """As measured by an earlier load, else as declared."""
        measured = self.records.seen(key_of(model)).measured_bytes
        return model.declared_bytes if measured is None else measured

    def _status(self, key: str, record: Record) -> ResidentStatus:
        entry, resident = self.ledger.entries.get(key), self.room.residents.get(key)
        absent = "reserved" if key in self._loading else "failed" if record.failure else "available"
        return ResidentStatus(
            name=record.name,
            digest=record.digest,
            state=str(entry.state) if entry else absent,
            bytes=entry.bytes if entry else 0,
            load_s=record.load_s,
            reason=record.failure.error.message if record.failure else None,
            notes=resident.engine.runtime_info if resident else (),
            pinned=entry.pinned if entry else self._pins.get(record.name, False),
            leases=entry.leases if entry else 0,
            loads=record.loads,
            evictions=record.evictions,
            last_use=record.last_use,
            last_unload=record.last_unload,
        )
