"""Room for models: who has it, who waits for it, who leaves for it, and memory that comes back.

`Ledger` is the accounting and `WaitingSocketTransport` the order; this drives both, and closes engines in a thread.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

from deployments.contract.errors import OutOfMemory
from deployments.contract.status import Unload
from deployments.repository.model import Model
from deployments.residency.eviction import Policy
from deployments.residency.history import LoadHistory
from deployments.residency.ledger import MIB, Ledger
from deployments.residency.load_queue import LoadQueue
from deployments.system.process_memory import Memory, unload

logger = logging.getLogger("model_runtime.residency")

LOADS_AT_ONCE = 2
"""Beyond this nobody is given room, which would only lie idle until the load begins."""
MEASURE_EVERY_S = 1.0
SLICE_S = 1.0
"""So long, or as long as its load and two of its leases last, a model that is never idle keeps its room from those who
wait for it. Then it takes no new leases until they had their turn."""


class Engine(Protocol):
    """A loaded model. `close` gives all its memory back and may be called from any thread."""

    @property
    def resident_bytes(self) -> int: ...

    @property
    def runtime_info(self) -> tuple[str, ...]:
        """How it runs, for people."""

    def close(self) -> None: ...


@runtime_checkable
class GrowingEngine(Protocol):
    """An engine whose memory follows its requests, and that asks before it takes more."""

    def ask_before_growing(self, grant: Callable[[int], bool]) -> None:
        """`grant(total_bytes)`: whether it may come to hold so many in all. From any thread; answers at once. Where
        the answer is no, room is made of idle models if that can be, so it may be yes a moment later."""


EngineT = TypeVar("EngineT", bound=Engine)
T = TypeVar("T")


@dataclass
class Resident(Generic[EngineT]):
    model: Model
    engine: EngineT
    since: float
    measured_at: float
    leaving: asyncio.Event | None = None
    """Set once it is gone, where that was asked for."""


@dataclass(eq=False)
class LoadRequest:
    """A model that is to be loaded. `room` is set once room is promised."""

    key: str
    size: int
    pinned: bool
    room: "asyncio.Future[None]"
    since: float = 0.0
    """When it joined the line."""
    waits: bool = False
    """Whether it stands in line."""


class MemoryManager(Generic[EngineT]):
    """The models that are in memory, within one budget."""

    def __init__(self, ledger: Ledger, policy: Policy, memory: Memory, clock: Callable[[], float]) -> None:
        self.ledger = ledger
        self.policy = policy
        self.memory = memory
        self.clock = clock
        self.records = LoadHistory()
        self.residents: dict[str, Resident[EngineT]] = {}
        self.unloads = 0
        self._line: LoadQueue[LoadRequest] = LoadQueue(ledger, self.worth, clock)
        self._changed = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()
        self._closers = ThreadPoolExecutor(1, "unload")
        self._timer: asyncio.TimerHandle | None = None

    async def make(self, wish: LoadRequest) -> None:
        """The model is *loading* in the ledger when this returns. Evicts only once that is known to suffice.

        Raises OutOfMemory where it can never fit; cancelling `wish.room` takes the wish back.
        """
        while wish.key in self.ledger.entries and not wish.room.done():  # On its way out.
            await self._change()
        wish.waits, wish.since = True, self.clock()
        self._line.join(wish)
        self.look()
        try:
            await wish.room
        finally:
            self._line.leave(wish)
        while not self.ledger.begin(wish.key):  # Those who leave for it are not gone yet.
            await self._change()

    async def settle(self, wish: LoadRequest, model: Model, engine: EngineT) -> None:
        """The measured size takes the place of the reserved one. Raises OutOfMemory where it had to go."""
        # At its largest so far, where it was here before: its caches will grow again.
        size = max(engine.resident_bytes, self.records.of(wish.key).measured_bytes or 0)
        self.ledger.measured(wish.key, size)
        if await self._back_within():
            return
        self.records.of(wish.key).measured_bytes = size
        self.ledger.leave(wish.key)
        left = self.ledger.budget_bytes - (self.ledger.used_bytes - size)
        await self._close(wish.key, self._resident(model, engine))
        raise OutOfMemory(
            f"takes {size / MIB:.0f} MiB, {wish.size / MIB:.0f} MiB were declared, "
            f"{left / MIB:.0f} MiB are left: state memory_mb in model.yaml"
        )

    def enter(self, key: str, model: Model, engine: EngineT, held_until: float) -> None:
        """It is ready."""
        self.ledger.loaded(key, held_until)
        self.residents[key] = self._resident(model, engine)
        if isinstance(engine, GrowingEngine):
            engine.ask_before_growing(self._grant_to(key))

    def look(self) -> None:
        """Something has changed: gives room to those who wait for it, as far as there is any now."""
        self._changed.set()
        while self._line and self.ledger.coming < LOADS_AT_ONCE and (admitted := self._line.admit()):
            wish, victims = admitted
            if wish.room.done():
                continue
            if isinstance(victims, OutOfMemory):
                wish.room.set_exception(victims)
                continue
            for victim in victims:
                self.evict(victim)
            self.ledger.reserve(wish.key, wish.size, wish.pinned)
            wish.room.set_result(None)
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._line:
            self._end_slices()
            self._timer = asyncio.get_running_loop().call_later(self._line.wait_s(), self.look)

    def _end_slices(self) -> None:
        """Who has waited long for models that are never idle gets them once the leases of now have ended."""
        if self.ledger.coming >= LOADS_AT_ONCE:
            return
        wish, claim = self._line.first()
        now = self.clock()
        for key in claim.names:
            entry, resident, record = self.ledger.entries[key], self.residents.get(key), self.records.of(key)
            if resident is None or resident.leaving or not entry.leases or entry.pinned or now < entry.held_until:
                continue
            slice_s = max(SLICE_S, record.usual_load_s, 2 * record.lease_s)
            if now - max(wish.since, resident.since) >= slice_s:
                resident.leaving = asyncio.Event()
                record.evictions += 1

    def _resident(self, model: Model, engine: EngineT) -> Resident[EngineT]:
        return Resident(model, engine, self.clock(), self.clock())

    def evict(self, key: str) -> None:
        """From now on an idle model is leaving; its bytes count until they are back."""
        resident = self.residents.pop(key)
        self.ledger.leave(key)
        if resident.leaving is None:
            self.records.of(key).evictions += 1
        task = asyncio.create_task(self._close(key, resident))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def measure(self, key: str) -> None:
        """Engines' sizes change while they run. Does nothing where that was done a moment ago."""
        resident = self.residents[key]
        if self.clock() - resident.measured_at < MEASURE_EVERY_S:
            return
        resident.measured_at = self.clock()
        entry, size = self.ledger.entries[key], resident.engine.resident_bytes
        if size <= entry.bytes:  # It may grow again without a word, or be granted more than it holds yet.
            return
        self.ledger.measured(key, size)
        self.records.of(key).measured_bytes = size
        if self.ledger.free_bytes < 0:
            logger.warning("%s has grown to %.1f MiB, beyond the budget", resident.model.name, size / MIB)
            self._evict_for(0)

    def worth(self, key: str) -> float:
        """What a byte of it is worth."""
        entry, record = self.ledger.entries[key], self.records.of(key)
        return self.policy.worth(key, entry.bytes, record.usual_load_s, self.clock())

    def usual_wait_s(self, size: int) -> float:
        """How long the leases last that hold the room for `size` bytes, as far as one can know."""
        held = self.ledger.claim(size, self.worth).names
        return max((self.records.of(key).lease_s for key in held if self.ledger.entries[key].leases), default=0.0)

    async def close(self) -> None:
        """Everything leaves. Nothing may be leased or loading."""
        for key in list(self.residents):
            self.evict(key)
        await asyncio.gather(*self._closing)
        if self._timer:
            self._timer.cancel()
        self._closers.shutdown(wait=False)

    async def _back_within(self) -> bool:
        """Whether idle models could make up for what is over the budget; they are gone then."""
        while self.ledger.over_bytes or self.ledger.free_bytes < 0:
            if self.ledger.free_bytes < 0 and not self._evict_for(0):
                return False
            if not self._closing:
                return False
            await self._change()
        return True

    def _evict_for(self, size: int) -> bool:
        """Whether idle models could make room for `size` bytes; they leave then."""
        try:
            victims = self.ledger.room_for(size, self.clock(), self.worth)
        except OutOfMemory:
            return False
        for victim in victims or ():
            self.evict(victim)
        return victims is not None

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _close(self, key: str, resident: Resident[EngineT]) -> None:
        size = self.ledger.entries[key].bytes
        try:
            before, after = await in_thread(self._closers, lambda: unload(resident.engine, size, self.memory))
        except Exception:
            logger.exception("unloading %s failed", resident.model.name)
        else:
            self.unloads += 1
            self.records.of(key).last_unload = Unload(size, before, after, time.time())
            logger.info(
                "unloaded %s: %.1f MiB, held %.1f MiB before and %.1f after",
                *(resident.model.name, size / MIB, before / MIB, after / MIB),
            )
        finally:
            self.ledger.gone(key)
            if resident.leaving:
                resident.leaving.set()
            self.look()

    def _grant_to(self, key: str) -> Callable[[int], bool]:
        loop = asyncio.get_running_loop()

        def make_room(size: int) -> None:
            entry = self.ledger.entries.get(key)
            if entry is not None:
                self._evict_for(max(0, size - entry.bytes))

        def grant(size: int) -> bool:  # called in the engine's thread
            granted = self.ledger.grow(key, size)
            if not granted:
                loop.call_soon_threadsafe(make_room, size)
            return granted

        return grant


async def in_thread(pool: Executor, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, work)
