"""The models in memory and the requests that wait for memory, within one byte budget.

`Ledger` does the accounting and `LoadQueue` decides the order; `MemoryManager` drives both, and evicts and closes
engines. It does not know how engines are built. All of it runs in the event loop, except for the grants to engines that
grow.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Generic

from deployments.contract.errors import OutOfMemory, Overloaded, Unavailable
from deployments.contract.status import Unload
from deployments.repository.model import Model
from deployments.residency.engine import EngineT, GrowingEngine, Resident
from deployments.residency.eviction import EvictionPolicy
from deployments.residency.history import LoadHistory
from deployments.residency.ledger import MIB, Ledger, Limit
from deployments.residency.load_queue import LoadQueue, LoadRequest
from deployments.residency.threads import LOADS_AT_ONCE, Threads
from deployments.system.process_memory import Memory, ProcessMemory, unload

logger = logging.getLogger("model_runtime.residency")

MEASURE_EVERY_S = 1.0
"""More often finds unannounced growth sooner, at the cost of one measurement a model. Not measured."""
TIME_SLICE_S = 1.0
"""A model that is never idle keeps its memory so long while others wait for it, or for its load time or two of its
leases where that is longer. Longer slices load less; shorter ones make the waiting models wait less. Without slices the
second of two models got 4 of 846 answers; with them it got half (`python -m benchmarks.residency thrashing`). Other
lengths were not measured."""
MIN_RETRY_AFTER_S, MAX_RETRY_AFTER_S = 0.1, 60.0


class MemoryManager(Generic[EngineT]):
    """`device_memory` is where the models are: the process's memory, or a GPU's."""

    def __init__(self, ledger: Ledger, policy: EvictionPolicy, threads: Threads, clock: Callable[[], float]) -> None:
        self.ledger = ledger
        self.policy = policy
        self.device_memory: Memory = ProcessMemory()
        self.threads = threads
        self.clock = clock
        self.history = LoadHistory()
        self.residents: dict[str, Resident[EngineT]] = {}
        self.unloads = 0
        self.pins: dict[str, bool] = {}
        """By name, where the manifest was overruled."""
        self.changed: Callable[[], None] = lambda: None
        """Called when a model has been given memory, or is about to leave it."""
        self._queue = LoadQueue(ledger, self.eviction_score, clock)
        self._changed = asyncio.Event()
        self._unloading: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def reserve(self, request: LoadRequest) -> None:
        """Wait until the request has its memory. The model is *loading* in the ledger then.

        Raises Unavailable where `request.granted` was cancelled meanwhile, OutOfMemory where the model can never fit.
        """
        key = request.model.key
        while key in self.ledger.entries and not request.granted.done():  # It is being unloaded.
            await self._next_change()
        self._queue.append(request)
        self.grant_waiting()
        try:
            await asyncio.wait({request.granted})
        finally:
            self._queue.remove(request)
        if request.granted.cancelled():
            raise Unavailable(f"{request.model.name}: nobody waited for it any more")
        request.granted.result()
        # Promised memory may still be held by victims that are being closed.
        while not self.ledger.begin_load(key):
            await self._next_change()

    async def confirm_size(self, request: LoadRequest, engine: EngineT) -> int:
        """Replace the reserved size of a model that was just built by its measured size, which is returned.

        Raises OutOfMemory where it does not fit and evictions do not help; its engine is closed then.
        """
        key, record = request.model.key, self.history[request.model.key]
        # At least its largest size so far: caches that grew last time will grow again.
        size = record.measured_bytes = max(engine.resident_bytes, record.measured_bytes or 0)
        self.ledger.set_size(key, size)
        if await self._return_within_budget():
            return size
        self.ledger.begin_unload(key)
        left = self.ledger.budget_bytes - (self.ledger.used_bytes - size)
        pinned = self.ledger.pinned_bytes - self.ledger.entries[key].bytes * self.ledger.entries[key].pinned
        await self._unload(Resident(request.model, engine, self.ledger.entries[key], self.clock()))
        if size > self.ledger.budget_bytes - pinned:
            raise self.ledger.limit.refusal(size, pinned)
        raise OutOfMemory(
            f"takes {size / MIB:.0f} MiB, {request.size / MIB:.0f} MiB were declared, "
            f"{left / MIB:.0f} MiB are left: state memory_mb in model.yaml"
        )

    def add_ready(self, model: Model, engine: EngineT, protected_until: float) -> Resident[EngineT]:
        """From now on the model can be leased."""
        self.ledger.finish_load(model.key, protected_until)
        resident = self.residents[model.key] = Resident(model, engine, self.ledger.entries[model.key], self.clock())
        if isinstance(engine, GrowingEngine):
            engine.ask_before_growing(self._grant_to(model.key))
        return resident

    def release(self, key: str) -> None:
        """End one lease. The last lease of a draining model unloads it."""
        self.ledger.release(key)
        self.measure(key)  # This may evict the model itself, where it has outgrown the budget.
        if (resident := self.residents.get(key)) is not None and resident.draining:
            self.drain(key)
        self.grant_waiting()

    def drain(self, key: str) -> None:
        """Unload the model once its leases have ended; it takes no new ones."""
        self.residents[key].draining = True
        if not self.ledger.entries[key].leases:
            self.evict(key)

    def grant_waiting(self) -> None:
        """Reserve memory for waiting requests, as far as there is any. To be called after every change."""
        self._changed.set()
        while self._queue and self.ledger.loads_in_progress < LOADS_AT_ONCE and (found := self._queue.pop_next()):
            request, outcome = found
            if request.granted.done():  # Cancelled.
                continue
            if isinstance(outcome, OutOfMemory):
                request.granted.set_exception(outcome)
                continue
            for victim in outcome:
                self.evict(victim)
            model = request.model
            self.ledger.reserve(model.key, request.size, self.pins.get(model.name, model.manifest.pinned))
            self.changed()
            request.granted.set_result(None)
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._queue:
            self._end_time_slices()
            self._timer = asyncio.get_running_loop().call_later(self._queue.seconds_to_next_check(), self.grant_waiting)

    def _end_time_slices(self) -> None:
        """Drain models that are never idle, once the head of the queue has waited for them for a time slice.

        Eviction alone would never reach them. Their callers queue behind the waiting model, so the two take turns.
        """
        if self.ledger.loads_in_progress >= LOADS_AT_ONCE:
            return
        head, reservation = self._queue.head()
        now = self.clock()
        for key in reservation.names:
            entry, resident, record = self.ledger.entries[key], self.residents.get(key), self.history[key]
            if resident is None or resident.draining or not entry.leases or entry.pinned or now < entry.protected_until:
                continue
            time_slice_s = max(TIME_SLICE_S, record.mean_load_s, 2 * record.lease_s)
            if now - max(head.queued_at or 0.0, resident.since) >= time_slice_s:
                record.evictions += 1
                self.drain(key)

    def evict(self, key: str) -> None:
        """Begin to unload an idle model. Its bytes count as used until its engine is closed."""
        resident = self.residents.pop(key)
        self.ledger.begin_unload(key)
        self.changed()
        if not resident.draining:
            self.history[key].evictions += 1
        task = asyncio.create_task(self._unload(resident))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    def measure(self, key: str) -> None:
        """Account a model that has grown without asking. Does nothing where it was measured a moment ago."""
        resident = self.residents[key]
        now = self.clock()
        if now - resident.measured_at < MEASURE_EVERY_S:
            return
        resident.measured_at = now
        entry, size = self.ledger.entries[key], resident.engine.resident_bytes
        # Never shrink the account: the engine may grow again unannounced, or was granted more than it holds yet.
        if size <= entry.bytes:
            return
        self.ledger.set_size(key, size)
        self.history[key].measured_bytes = size
        if self.ledger.free_bytes < 0:
            logger.warning("%s has grown to %.1f MiB, beyond the budget", resident.model.name, size / MIB)
            self._evict_for(0)

    def set_limit(self, limit: Limit) -> None:
        """Another budget from now on. Idle models are evicted where they no longer fit."""
        if limit != self.ledger.limit:
            self.ledger.limit = limit
            if self.ledger.free_bytes < 0:
                self._evict_for(0)
            self.grant_waiting()

    def eviction_score(self, key: str) -> float:
        """What a byte of the model saves by staying in memory. The lowest score is evicted first."""
        entry, record = self.ledger.entries[key], self.history[key]
        return self.policy.eviction_score(key, entry.bytes, record.mean_load_s, self.clock())

    def overloaded(self, request: LoadRequest) -> Overloaded:
        """The refusal of a request whose time is over, to be repeated once the leases that it waits for usually end."""
        names = self.ledger.reservation_for(request.size, self.eviction_score).names
        wait_s = max((self.history[key].lease_s for key in names if self.ledger.entries[key].leases), default=0.0)
        error = Overloaded(f"{request.model.name}: models in use hold the memory it needs")
        error.retry_after_ms = int(1000 * min(max(wait_s, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S))
        return error

    async def close(self) -> None:
        """Unload everything. Nothing may be leased or loading."""
        for key in list(self.residents):
            self.evict(key)
        await asyncio.gather(*self._unloading)
        if self._timer:
            self._timer.cancel()

    async def _return_within_budget(self) -> bool:
        """Whether evictions brought both sums back within the budget; the victims are closed then."""
        while self.ledger.over_bytes or self.ledger.free_bytes < 0:
            if (self.ledger.free_bytes < 0 and not self._evict_for(0)) or not self._unloading:
                return False
            await self._next_change()
        return True

    def _evict_for(self, size: int) -> bool:
        """Whether idle models suffice to make `size` bytes free; they are evicted then."""
        try:
            victims = self.ledger.victims_for(size, self.clock(), self.eviction_score)
        except OutOfMemory:
            return False
        for victim in victims or ():
            self.evict(victim)
        return victims is not None

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _unload(self, resident: Resident[EngineT]) -> None:
        key, name = resident.model.key, resident.model.name
        size = self.ledger.entries[key].bytes
        try:
            before, after = await self.threads.unload(lambda: unload(resident.engine, size, self.device_memory))
        except Exception:
            logger.exception("unloading %s failed", name)
        else:
            self.unloads += 1
            self.history[key].last_unload = Unload(size, before, after, time.time())
            sizes = (size / MIB, before / MIB, after / MIB)
            logger.info("unloaded %s: %.1f MiB, held %.1f MiB before and %.1f after", name, *sizes)
        finally:
            self.ledger.forget(key)
            resident.unloaded.set()
            self.grant_waiting()

    def _grant_to(self, key: str) -> Callable[[int], bool]:
        loop = asyncio.get_running_loop()

        def make_free(size: int) -> None:
            if (entry := self.ledger.entries.get(key)) is not None:
                self._evict_for(max(0, size - entry.bytes))

        def grant(size: int) -> bool:  # Runs in the engine's thread; the ledger has a lock.
            granted = self.ledger.resize(key, size)
            if not granted:
                loop.call_soon_threadsafe(make_free, size)
            return granted

        return grant
