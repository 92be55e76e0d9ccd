"""The accounting of models within a byte budget: a pure state machine. Knows no engines, no clocks and no waiting.

A model is *reserved* (room is promised, some of which others still leave), *loading*, *ready* (leased or idle), and
*unloading*. Two sums never exceed the budget: what is promised (reserved, loading, ready), and what memory may hold
(loading, ready, unloading). The one exception is a model that measures more than it was said to need: it is counted at
what it measures, and the excess is `over_bytes` until room was made or it has left.
"""

import threading
from collections.abc import Callable, Collection
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
    """One model, from the promise of its room until its memory is back."""

    bytes: int
    pinned: bool = False
    state: State = State.RESERVED
    leases: int = 0
    held_until: float = 0.0
    """It is not evicted before."""

    @property
    def idle(self) -> bool:
        return self.state is State.READY and not self.leases

    def evictable(self, now: float) -> bool:
        return self.idle and not self.pinned and now >= self.held_until


@dataclass(frozen=True, slots=True)
class Reservation:
    """Room that one newcomer waits for and that no other may take: ready models, and free bytes."""

    names: frozenset[str] = frozenset()
    free_bytes: int = 0


NO_RESERVATION = Reservation()
EvictionScore = Callable[[str], float]
"""What a byte of a model is worth in memory: the least goes first."""


@dataclass
class Ledger:
    """Its transitions may be called from any thread; each raises AssertionError where the state does not allow it."""

    budget_bytes: int
    entries: dict[str, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """What memory may hold now."""
        return sum(entry.bytes for entry in list(self.entries.values()) if entry.state is not State.RESERVED)

    @property
    def promised_bytes(self) -> int:
        """What it will come to hold, once all that leaves has left."""
        return sum(entry.bytes for entry in list(self.entries.values()) if entry.state is not State.UNLOADING)

    @property
    def free_bytes(self) -> int:
        return self.budget_bytes - self.promised_bytes

    @property
    def coming(self) -> int:
        """How many models are reserved or loading."""
        return sum(entry.state in (State.RESERVED, State.LOADING) for entry in self.entries.values())

    @property
    def over_bytes(self) -> int:
        return max(0, self.used_bytes - self.budget_bytes)

    def room_for(
        self, size: int, now: float, worth: EvictionScore, claimed: Reservation = NO_RESERVATION
    ) -> list[str] | None:
        """Names to evict so that `size` bytes more fit; None while leases, or others' claims, hold the room.

        Raises OutOfMemory where not even an empty budget, pinned models aside, would do.
        """
        self.check(size)
        missing = size + claimed.free_bytes - self.free_bytes
        evictable = [name for name, entry in self.entries.items() if entry.evictable(now) and name not in claimed.names]
        victims = self._least(missing, sorted(evictable, key=worth))
        return victims if sum(self.entries[name].bytes for name in victims) >= missing else None

    def check(self, size: int) -> None:
        """Raises OutOfMemory where `size` bytes can never fit beside what is pinned."""
        pinned = sum(entry.bytes for entry in self.entries.values() if entry.pinned)
        if size > self.budget_bytes - pinned:
            beside = f" beside {pinned / MIB:.0f} MiB pinned" if pinned else ""
            raise OutOfMemory(f"needs {size / MIB:.0f} MiB, the budget is {self.budget_bytes / MIB:.0f} MiB{beside}")

    def claim(self, size: int, worth: EvictionScore) -> Reservation:
        """The room that a newcomer waits for, so that as much as can be is left to others: the leased models without
        which it cannot fit, then idle ones, then free bytes. Least worth first."""
        names = [name for name, entry in self.entries.items() if entry.state is State.READY and not entry.pinned]
        idle = sorted((name for name in names if self.entries[name].idle), key=worth)
        leased = sorted((name for name in names if not self.entries[name].idle), key=worth)
        without = max(0, self.free_bytes) + sum(self.entries[name].bytes for name in idle)
        claimed = self._least(size - without, leased)
        size -= sum(self.entries[name].bytes for name in claimed)
        claimed += self._least(size - max(0, self.free_bytes), idle)
        size -= sum(self.entries[name].bytes for name in claimed if self.entries[name].idle)
        return Reservation(frozenset(claimed), max(0, min(size, self.free_bytes)))

    def _least(self, missing: int, order: Collection[str]) -> list[str]:
        """The first names of `order` that make up for `missing` bytes, without those that are not needed for it."""
        chosen: list[str] = []
        for name in order:
            if missing <= 0:
                break
            chosen.append(name)
            missing -= self.entries[name].bytes
        for name in reversed(chosen):  # A large one at the end may have made earlier ones needless.
            if missing + self.entries[name].bytes <= 0:
                chosen.remove(name)
                missing += self.entries[name].bytes
        return chosen

    def reserve(self, name: str, size: int, pinned: bool = False) -> None:
        """Promise room, of which what is being unloaded may still hold some."""
        with self._lock:
            assert name not in self.entries
            assert size <= self.free_bytes, "promised more than there is"
            self.entries[name] = Entry(size, pinned)

    def begin(self, name: str) -> bool:
        """Whether the room is there: then the model is loading."""
        with self._lock:
            entry = self._in(name, State.RESERVED)
            if self.used_bytes + entry.bytes > self.budget_bytes:
                return False
            entry.state = State.LOADING
            return True

    def measured(self, name: str, size: int) -> None:
        """What a model takes that is there, be it within its reservation or not."""
        with self._lock:
            self._in(name, State.LOADING, State.READY).bytes = size

    def grow(self, name: str, size: int) -> bool:
        """Whether a model that is there may hold `size` bytes; then it is accounted at them, be it more or less."""
        with self._lock:
            entry = self.entries.get(name)
            if entry is None or entry.state not in (State.LOADING, State.READY):
                return False
            more = size - entry.bytes
            if more > 0 and max(self.used_bytes, self.promised_bytes) + more > self.budget_bytes:
                return False
            entry.bytes = size
            return True

    def loaded(self, name: str, held_until: float = 0.0) -> None:
        with self._lock:
            entry = self._in(name, State.LOADING)
            entry.state, entry.held_until = State.READY, held_until

    def lease(self, name: str) -> None:
        with self._lock:
            self._in(name, State.READY).leases += 1

    def release(self, name: str) -> None:
        with self._lock:
            entry = self._in(name, State.READY)
            assert entry.leases > 0
            entry.leases -= 1

    def leave(self, name: str) -> None:
        """An idle model, or one whose load did not end well, is being unloaded."""
        with self._lock:
            entry = self._in(name, State.READY, State.LOADING)
            assert not entry.leases, "a leased model is never gone"
            entry.state = State.UNLOADING

    def gone(self, name: str) -> None:
        """Its memory is back, or was never taken."""
        with self._lock:
            assert self.entries[name].state is not State.READY
            del self.entries[name]

    def _in(self, name: str, *states: State) -> Entry:
        entry = self.entries[name]
        assert entry.state in states, f"{name} is {entry.state}"
        return entry
