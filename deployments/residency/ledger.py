"""The accounting of models within a byte budget: a pure state machine without engines, clocks and waiting.

A model is *reserved*, *loading*, *ready* (leased or idle) and *unloading*, in this order. Two sums stay within the
budget, because a load may be promised memory that an unload has not freed yet:

    promised_bytes = reserved + loading + ready       memory once all unloads have ended
    used_bytes     = loading + ready + unloading      memory that may be allocated now

`reserve` keeps the first sum within the budget, `begin_load` the second. So victims are chosen and their memory is
promised in one step, while the load begins only when that memory is free. The one exception is a model that measures
more than was reserved for it: it is accounted at its measured size, and `over_bytes` is the excess.
"""

import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from deployments.contract.errors import OutOfMemory

MIB = 2**20


class State(StrEnum):
    RESERVED = "reserved"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"


@dataclass
class Entry:
    """One model, from its reservation until its memory is free again."""

    bytes: int
    pinned: bool = False
    state: State = State.RESERVED
    leases: int = 0
    protected_until: float = 0.0
    """It is not evicted before."""

    @property
    def idle(self) -> bool:
        return self.state is State.READY and not self.leases

    def evictable(self, now: float) -> bool:
        return self.idle and not self.pinned and now >= self.protected_until


@dataclass(frozen=True, slots=True)
class HeadReservation:
    """What the first request of the load queue waits for and later requests may not take."""

    names: frozenset[str] = frozenset()
    """Ready models."""
    free_bytes: int = 0


NOTHING_RESERVED = HeadReservation()
EvictionScore = Callable[[str], float]
"""What a byte of a model saves by staying in memory. The lowest score is evicted first."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A budget, and the setting that it comes from."""

    bytes: int
    setting: str = "required_mem_mb"
    value: str = "too little"
    """What the setting is."""
    unit_bytes: float = MIB
    """What the budget grows by for each 1 in the setting."""

    def refusal(self, size: int, pinned: int = 0) -> OutOfMemory:
        """Of a model of `size` bytes that cannot fit beside the pinned ones."""
        beside = f" beside {pinned / MIB:.0f} MiB pinned" if pinned else ""
        needed = (size + pinned) / self.unit_bytes
        of_gpu = self.unit_bytes != MIB
        if of_gpu and needed > 1:
            wanted = f"a whole GPU would be {self.unit_bytes / MIB:.0f} MiB"
        else:
            wanted = f"would have to be {math.ceil(100 * needed) / 100 if of_gpu else math.ceil(needed)}"
        return OutOfMemory(
            f"needs {size / MIB:.0f} MiB{beside}, the budget is {self.bytes / MIB:.0f} MiB: "
            f"{self.setting} is {self.value} and {wanted}"
        )


@dataclass
class Ledger:
    """Its transitions may be called from any thread; each raises AssertionError where the state does not allow it."""

    limit: Limit
    entries: dict[str, Entry] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def budget_bytes(self) -> int:
        return self.limit.bytes

    @property
    def pinned_bytes(self) -> int:
        return sum(entry.bytes for entry in list(self.entries.values()) if entry.pinned)

    @property
    def used_bytes(self) -> int:
        return sum(entry.bytes for entry in list(self.entries.values()) if entry.state is not State.RESERVED)

    @property
    def promised_bytes(self) -> int:
        return sum(entry.bytes for entry in list(self.entries.values()) if entry.state is not State.UNLOADING)

    @property
    def free_bytes(self) -> int:
        """Bytes that may still be promised; negative where models measured more than they reserved."""
        return self.budget_bytes - self.promised_bytes

    @property
    def over_bytes(self) -> int:
        return max(0, self.used_bytes - self.budget_bytes)

    @property
    def loads_in_progress(self) -> int:
        return sum(entry.state in (State.RESERVED, State.LOADING) for entry in self.entries.values())

    def victims_for(
        self, size: int, now: float, score: EvictionScore, reserved: HeadReservation = NOTHING_RESERVED
    ) -> list[str] | None:
        """Models to evict so that `size` more bytes fit beside `reserved`; None where evictions do not suffice now.

        Raises OutOfMemory where the size can never fit beside the pinned models.
        """
        if size > self.budget_bytes - self.pinned_bytes:
            raise self.limit.refusal(size, self.pinned_bytes)
        missing = size + reserved.free_bytes - self.free_bytes
        evictable = [
            name for name, entry in self.entries.items() if entry.evictable(now) and name not in reserved.names
        ]
        victims = self._fewest(missing, sorted(evictable, key=score))
        return victims if self._sum(victims) >= missing else None

    def reservation_for(self, size: int, score: EvictionScore) -> HeadReservation:
        """The least that has to be kept for a request of `size` bytes, so that the most is left to later requests.

        Leased models are reserved only as far as free bytes and all idle models together do not suffice. Their leases
        end at unknown times, so other requests lose least by not taking them. The rest comes from idle models, and the
        last of it from free bytes, which are the easiest for others to use.
        """
        ready = [name for name, entry in self.entries.items() if entry.state is State.READY and not entry.pinned]
        by_score = sorted(ready, key=score)
        idle = [name for name in by_score if self.entries[name].idle]
        leased = [name for name in by_score if not self.entries[name].idle]
        free = max(0, self.free_bytes)
        taken = self._fewest(size - free - self._sum(idle), leased)
        size -= self._sum(taken)
        taken_idle = self._fewest(size - free, idle)
        size -= self._sum(taken_idle)
        return HeadReservation(frozenset(taken + taken_idle), max(0, min(size, self.free_bytes)))

    def _fewest(self, missing: int, order: Iterable[str]) -> list[str]:
        """The first models of `order` that together hold `missing` bytes, without those that turn out superfluous."""
        chosen: list[str] = []
        for name in order:
            if missing <= 0:
                break
            chosen.append(name)
            missing -= self.entries[name].bytes
        for name in reversed(chosen):  # A large model at the end may make earlier ones superfluous.
            if missing + self.entries[name].bytes <= 0:
                chosen.remove(name)
                missing += self.entries[name].bytes
        return chosen

    def _sum(self, names: Iterable[str]) -> int:
        return sum(self.entries[name].bytes for name in names)

    def reserve(self, name: str, size: int, pinned: bool = False) -> None:
        """Promise memory, of which unloads may still hold some."""
        with self._lock:
            assert name not in self.entries
            assert size <= self.free_bytes, "promised more than the budget"
            self.entries[name] = Entry(size, pinned)

    def begin_load(self, name: str) -> bool:
        """Whether the promised memory is free; then the model is loading."""
        with self._lock:
            entry = self._entry(name, State.RESERVED)
            if self.used_bytes + entry.bytes > self.budget_bytes:
                return False
            entry.state = State.LOADING
            return True

    def set_size(self, name: str, size: int) -> None:
        """Account a model at its measured size, within its reservation or not."""
        with self._lock:
            self._entry(name, State.LOADING, State.READY).bytes = size

    def resize(self, name: str, size: int) -> bool:
        """Whether the model may hold `size` bytes; then it is accounted at them, be they more or less than before."""
        with self._lock:
            entry = self.entries.get(name)
            if entry is None or entry.state not in (State.LOADING, State.READY):
                return False
            more = size - entry.bytes
            if more > 0 and max(self.used_bytes, self.promised_bytes) + more > self.budget_bytes:
                return False
            entry.bytes = size
            return True

    def finish_load(self, name: str, protected_until: float = 0.0) -> None:
        with self._lock:
            entry = self._entry(name, State.LOADING)
            entry.state, entry.protected_until = State.READY, protected_until

    def lease(self, name: str) -> None:
        with self._lock:
            self._entry(name, State.READY).leases += 1

    def release(self, name: str) -> None:
        with self._lock:
            entry = self._entry(name, State.READY)
            assert entry.leases > 0
            entry.leases -= 1

    def begin_unload(self, name: str) -> None:
        """Of an idle model, or of one whose load failed after it had allocated memory."""
        with self._lock:
            entry = self._entry(name, State.READY, State.LOADING)
            assert not entry.leases, "a leased model is never unloaded"
            entry.state = State.UNLOADING

    def forget(self, name: str) -> None:
        """Its memory is free again, or was never allocated."""
        with self._lock:
            assert self.entries[name].state is not State.READY
            del self.entries[name]

    def _entry(self, name: str, *states: State) -> Entry:
        entry = self.entries[name]
        assert entry.state in states, f"{name} is {entry.state}"
        return entry
