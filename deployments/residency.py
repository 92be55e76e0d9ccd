"""Which models are in memory: leases, single flight, a byte budget, eviction, remembered failures.

`Ledger` is the accounting, a pure state machine. `Residency` drives it: it loads and closes engines in threads while
others keep answering. Knows engines by `Engine` only.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from deployments.errors import ModelLoadFailed, OutOfMemory, Overloaded, ServingError
from deployments.repository import Model
from deployments.residency_status import Plan, ResidentStatus

logger = logging.getLogger("model_runtime.residency")

MIB = 2**20
FIRST_BACK_OFF_S = 5.0
LAST_BACK_OFF_S = 300.0


class Engine(Protocol):
    """A loaded model. `close` gives all its memory back and may be called from any thread."""

    @property
    def resident_bytes(self) -> int: ...

    @property
    def notes(self) -> tuple[str, ...]:
        """How it runs, for people."""

    def close(self) -> None: ...


EngineT = TypeVar("EngineT", bound=Engine)


@dataclass
class Entry:
    """What the ledger holds of one model, from the reservation for its load on."""

    bytes: int
    pinned: bool
    load_s: float = 0.0
    leases: int = 0
    last_use: float = 0.0

    def worth(self, now: float) -> float:
        """How soon it is likely wanted × what a reload costs ÷ its bytes: seconds saved for each byte-second."""
        idle_s = max(now - self.last_use, 1e-3)
        return max(self.load_s, 1e-3) / idle_s / max(self.bytes, 1)


class Ledger:
    """Bytes reserved for models within `budget_bytes`. The sum of its entries never exceeds the budget."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.entries: dict[str, Entry] = {}

    @property
    def used_bytes(self) -> int:
        return sum(entry.bytes for entry in self.entries.values())

    def room_for(self, size: int, now: float) -> list[str] | None:
        """Names to evict so that `size` bytes fit, least worth first; None while leases hold the room.

        Raises OutOfMemory where not even an empty budget, pinned models aside, would do.
        """
        pinned = sum(entry.bytes for entry in self.entries.values() if entry.pinned)
        if size > self.budget_bytes - pinned:
            beside = f" beside {pinned / MIB:.0f} MiB pinned" if pinned else ""
            raise OutOfMemory(f"needs {size / MIB:.0f} MiB, the budget is {self.budget_bytes / MIB:.0f} MiB{beside}")
        missing = size - (self.budget_bytes - self.used_bytes)
        idle = [
            (entry.worth(now), name) for name, entry in self.entries.items() if not entry.leases and not entry.pinned
        ]
        victims = []
        for _, name in sorted(idle):
            if missing <= 0:
                break
            victims.append(name)
            missing -= self.entries[name].bytes
        return victims if missing <= 0 else None


@dataclass
class _Failure:
    error: ServingError
    back_off_s: float
    until: float


@dataclass
class _Resident(Generic[EngineT]):
    model: Model
    engine: EngineT
    entry: Entry


@dataclass
class Residency(Generic[EngineT]):
    """The models of one replica. `load` builds an engine and is called in a thread."""

    budget_bytes: int
    load: Callable[[Model], EngineT]
    clock: Callable[[], float] = time.monotonic
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.budget_bytes)
        self._residents: dict[str, _Resident[EngineT]] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, _Failure] = {}
        self._reserving = asyncio.Lock()
        self._released = asyncio.Event()

    @asynccontextmanager
    async def lease(self, model: Model, timeout_s: float) -> AsyncIterator[EngineT]:
        """The model's engine, loaded if need be; it stays until the lease ends.

        Raises ModelLoadFailed, OutOfMemory, or Overloaded where leases hold the room for `timeout_s`.
        """
        key = _key(model)
        # Asked again after each load: another load may have taken the room before this caller woke.
        while (resident := self._residents.get(key)) is None:
            await self._load_once(key, model, timeout_s)
        resident.entry.leases += 1
        try:
            yield resident.engine
        finally:
            resident.entry.leases -= 1
            resident.entry.last_use = self.clock()
            self._released.set()

    def statuses(self) -> list[ResidentStatus]:
        ready = [
            ResidentStatus(
                r.model.name,
                r.model.digest,
                "ready",
                r.entry.bytes,
                r.entry.load_s,
                notes=r.engine.notes,
                pinned=r.entry.pinned,
                leases=r.entry.leases,
            )
            for r in self._residents.values()
        ]
        loading = [ResidentStatus(*_split(key), "loading") for key in self._loading]
        failed = [
            ResidentStatus(*_split(key), "failed", reason=failure.error.message)
            for key, failure in self._failures.items()
        ]
        return ready + loading + failed

    def pin(self, model: Model, pinned: bool) -> None:
        """From now on, whether it is in memory or not."""
        if (resident := self._residents.get(_key(model))) is not None:
            resident.entry.pinned = pinned

    async def unload(self, model: Model) -> bool:
        """Whether it was in memory and has left. Not while it is leased."""
        resident = self._residents.get(_key(model))
        if resident is None or resident.entry.leases:
            return False
        await self._evict(_key(model))
        return True

    def plan(self, model: Model, replica: str) -> Plan:
        """What loading it would take now."""
        resident = self._residents.get(_key(model))
        free = self.budget_bytes - self.ledger.used_bytes
        needs = model.declared_bytes if resident is None else resident.entry.bytes
        try:
            victims = [] if resident else self.ledger.room_for(needs, self.clock())
        except OutOfMemory as never:
            return Plan(replica, model.name, False, False, needs, False, free, reason=never.message)
        evicts = tuple(_split(key)[0] for key in victims or [])
        return Plan(replica, model.name, resident is not None, victims is not None, needs, False, free, evicts)

    async def close(self) -> None:
        for task in self._loading.values():
            task.cancel()
        for key in list(self._residents):
            await self._evict(key)

    async def _load_once(self, key: str, model: Model, timeout_s: float) -> None:
        failure = self._failures.get(key)
        if failure is not None and self.clock() < failure.until:
            raise failure.error.again()
        task = self._loading.get(key)
        if task is None:
            task = asyncio.create_task(self._load(key, model, timeout_s))
            self._loading[key] = task
            task.add_done_callback(lambda task: self._loaded(key, task))
        # Shielded: a caller who leaves does not take the others' load along.
        await asyncio.shield(task)

    def _loaded(self, key: str, task: asyncio.Task[None]) -> None:
        del self._loading[key]
        if not task.cancelled():
            task.exception()  # seen, even if every caller has left

    async def _load(self, key: str, model: Model, timeout_s: float) -> None:
        try:
            entry = await self._reserve(key, model, timeout_s)
            try:
                started = self.clock()
                engine = await asyncio.to_thread(self.load, model)
                entry.load_s = self.clock() - started
                await self._settle(model, engine, entry)
            except BaseException:
                del self.ledger.entries[key]
                raise
        except Overloaded:
            raise
        except Exception as cause:
            self._remember(key, model, cause)
            raise self._failures[key].error from cause
        self._failures.pop(key, None)
        self._residents[key] = _Resident(model, engine, entry)
        logger.info("loaded %s: %.1f MiB in %.2f s", model.name, entry.bytes / MIB, entry.load_s)

    async def _reserve(self, key: str, model: Model, timeout_s: float) -> Entry:
        """Room for the model, entered in the ledger. Evicts only once that is known to suffice."""
        give_up = self.clock() + timeout_s
        async with self._reserving:
            while (victims := self.ledger.room_for(model.declared_bytes, self.clock())) is None:
                self._released.clear()
                try:
                    await asyncio.wait_for(self._released.wait(), give_up - self.clock())
                except TimeoutError:
                    raise Overloaded(f"{model.name}: models in use hold the memory it needs") from None
            for victim in victims:
                await self._evict(victim)
            entry = self.ledger.entries[key] = Entry(model.declared_bytes, model.manifest.pinned, leases=1)
        return entry

    async def _settle(self, model: Model, engine: EngineT, entry: Entry) -> None:
        """The measured size takes the place of the declared one, if it fits too."""
        others = self.ledger.used_bytes - entry.bytes
        if engine.resident_bytes > self.budget_bytes - others:
            size = engine.resident_bytes
            await asyncio.to_thread(engine.close)
            raise OutOfMemory(
                f"takes {size / MIB:.0f} MiB, {model.declared_bytes / MIB:.0f} MiB were declared, "
                f"{(self.budget_bytes - others) / MIB:.0f} MiB are left: state memory_mb in model.yaml"
            )
        entry.bytes = engine.resident_bytes
        # The load counts as a use, or the newcomer would be the first to go.
        entry.leases, entry.last_use = 0, self.clock()

    async def _evict(self, key: str) -> None:
        resident = self._residents.pop(key)
        try:
            await asyncio.to_thread(resident.engine.close)
        finally:
            # Its bytes count until they are back.
            del self.ledger.entries[key]
        logger.info("evicted %s: %.1f MiB", resident.model.name, resident.entry.bytes / MIB)

    def _remember(self, key: str, model: Model, cause: Exception) -> None:
        """A failure is answered from memory for a while, twice as long each time."""
        before = self._failures.get(key)
        back_off_s = FIRST_BACK_OFF_S if before is None else min(before.back_off_s * 2, LAST_BACK_OFF_S)
        if isinstance(cause, ServingError):
            error: ServingError = type(cause)(f"{model.name}: {cause.message}")
        else:
            logger.error("loading %s failed", model.name, exc_info=cause)
            error = ModelLoadFailed(f"{model.name}: {type(cause).__name__} while loading")
        error.retry_after_ms = int(back_off_s * 1000) if error.retryable else None
        self._failures[key] = _Failure(error, back_off_s, self.clock() + back_off_s)


def _key(model: Model) -> str:
    """Changed files make another resident: the old one is left to eviction."""
    return f"{model.name}#{model.digest}"


def _split(key: str) -> tuple[str, str]:
    name, _, digest = key.rpartition("#")
    return name, digest
