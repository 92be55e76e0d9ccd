"""Leases of models, which are loaded when they are first leased and stay within a byte budget.

`ModelLoader` loads, `MemoryManager` keeps the budget, the load queue and evictions. `Residency` knows engines by the
`Engine` protocol only, and nothing of requests.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import KW_ONLY, dataclass, field
from typing import Generic

from deployments.contract.errors import OutOfMemory, Overloaded
from deployments.contract.status import Plan, ResidentStatus
from deployments.repository.model import Model
from deployments.residency.engine import EngineT, Resident
from deployments.residency.eviction import CostAware, EvictionPolicy
from deployments.residency.history import LoadRecord
from deployments.residency.ledger import Ledger, State
from deployments.residency.loader import ModelLoader
from deployments.residency.memory import MemoryManager
from deployments.residency.threads import Threads


@dataclass(eq=False, repr=False)
class Residency(Generic[EngineT]):
    """The models of one replica.

    `build` makes an engine; `validate` raises what is wrong with a model's folder, before any memory is reserved. Both
    are called in threads. A model that nobody used for `idle_s` is evicted; None: only where others need its memory.
    """

    ledger: Ledger
    build: Callable[[Model], EngineT]
    validate: Callable[[Model], object] = lambda model: None
    _: KW_ONLY
    idle_s: float | None = None
    policy: EvictionPolicy = field(default_factory=CostAware)
    threads: Threads = field(default_factory=Threads)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.memory: MemoryManager[EngineT] = MemoryManager(self.ledger, self.policy, self.threads, self.clock)
        self.history = self.memory.history
        self.loader = ModelLoader(self.memory, self.build, self.validate)

    @asynccontextmanager
    async def lease(self, model: Model, timeout_s: float) -> AsyncIterator[EngineT]:
        """The model's engine, loaded if need be; it stays in memory until the lease ends.

        Raises ModelLoadFailed, OutOfMemory, Overloaded where leases hold the memory, DeadlineExceeded.
        """
        resident = await self._leased(model, self.clock() + timeout_s)
        since = self.clock()
        try:
            yield resident.engine
        finally:
            # Recorded at the end, so that the request comes to its engine sooner: a leased model is not evicted anyway.
            record, now = self.history[model.key], self.clock()
            record.last_use = time.time()
            record.add_lease(now - since)
            self.policy.record_use(model.key, now)
            self.memory.release(model.key)

    async def _leased(self, model: Model, deadline: float) -> Resident[EngineT]:
        while (resident := self.memory.residents.get(model.key)) is not None:
            if not resident.draining:
                resident.entry.leases += 1  # What `Ledger.lease` does; a resident that is not draining is ready.
                return resident
            try:
                await asyncio.wait_for(resident.unloaded.wait(), deadline - self.clock())
            except TimeoutError:
                raise Overloaded(f"{model.name} is being unloaded") from None
        return await self.loader.lease(model, deadline)

    def apply_pin(self, model: Model, pinned: bool) -> None:
        """From now on, whether the model is in memory or not. A pinned model is never evicted."""
        if self.memory.pins.get(model.name, model.manifest.pinned) != pinned:
            self.memory.pins[model.name] = pinned
            if (entry := self.ledger.entries.get(model.key)) is not None:
                entry.pinned = pinned
            self.memory.grant_waiting()

    async def unload(self, model: Model) -> bool:
        """Whether it was in memory; it is unloaded when this returns. Leases end first, new requests wait."""
        resident = self.memory.residents.get(model.key)
        if resident is None:
            return False
        self.memory.drain(model.key)
        await resident.unloaded.wait()
        return True

    def sweep(self) -> None:
        """Measure the models in memory and evict those that nobody used for `idle_s`. To be called every second."""
        for key in list(self.memory.residents):
            entry = self.ledger.entries[key]
            self.memory.measure(key)
            unused_s = time.time() - (self.history[key].last_use or 0.0)
            if self.idle_s is not None and unused_s >= self.idle_s and entry.evictable(self.clock()):
                self.memory.evict(key)
        self.history.prune(set(self.ledger.entries))

    def plan(self, model: Model, replica: str) -> Plan:
        """What loading the model would take now, by measured figures. Changes nothing."""
        record, now = self.history.peek(model.key), self.clock()
        failure, speed = record.failure_at(now), self.history.bytes_per_s
        resident = model.key in self.memory.residents
        size = self.history.size_of(model)
        reason = failure.error.message if failure else None
        victims: list[str] | None = []
        waits_for: frozenset[str] = frozenset()
        try:
            if not resident:
                victims = self.ledger.victims_for(size, now, self.memory.eviction_score)
                if victims is None:
                    waits_for = self.ledger.reservation_for(size, self.memory.eviction_score).names
        except OutOfMemory as never:
            victims, reason = None, never.message
        return Plan(
            replica=replica,
            name=model.name,
            resident=resident,
            fits=victims is not None and failure is None,
            needs_bytes=size,
            measured=record.measured_bytes is not None,
            free_bytes=self.ledger.free_bytes,
            evicts=tuple(self.history[key].name for key in victims or ()),
            waits_for=tuple(sorted(self.history[key].name for key in waits_for)),
            seconds=0.0 if resident else record.mean_load_s or (size / speed if speed else None),
            reason=reason,
        )

    def statuses(self) -> list[ResidentStatus]:
        return [self._status(key, record) for key, record in self.history.items()]

    def used_since(self, at: float) -> list[Model]:
        """The models in memory that were used or loaded since then, by the wall clock: the last ones first."""
        wall_s = time.time() - self.clock()
        used = {key: self.history[key].last_use or one.since + wall_s for key, one in self.memory.residents.items()}
        recent = sorted((key for key, last in used.items() if last >= at), key=used.__getitem__, reverse=True)
        return [self.memory.residents[key].model for key in recent]

    def model_names(self) -> list[str]:
        """The models that are in memory or being loaded."""
        entries = self.ledger.entries.items()
        return [self.history[key].name for key, entry in entries if entry.state is not State.UNLOADING]

    async def close(self) -> None:
        """Wait for loads in progress, then unload everything."""
        await self.loader.close()
        await self.memory.close()
        self.threads.close()

    def _status(self, key: str, record: LoadRecord) -> ResidentStatus:
        entry, resident = self.ledger.entries.get(key), self.memory.residents.get(key)
        absent = "reserved" if key in self.loader.loads else "failed" if record.failure else "available"
        return ResidentStatus(
            name=record.name,
            digest=record.digest,
            state=str(entry.state) if entry else absent,
            bytes=entry.bytes if entry else 0,
            load_s=record.load_s,
            reason=record.failure.error.message if record.failure else None,
            retryable=record.failure.error.retryable if record.failure else None,
            notes=resident.engine.runtime_info if resident else (),
            pinned=entry.pinned if entry else self.memory.pins.get(record.name, False),
            leases=entry.leases if entry else 0,
            loads=record.loads,
            evictions=record.evictions,
            last_use=record.last_use,
            last_unload=record.last_unload,
        )
