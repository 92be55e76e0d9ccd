"""What residency knows of a loaded model: its size, how it runs, and how to close it. No tensors."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar, runtime_checkable

from deployments.repository.model import Model
from deployments.residency.ledger import Entry


class Engine(Protocol):
    """A loaded model. `close` frees all its memory and may be called from any thread."""

    @property
    def resident_bytes(self) -> int: ...

    @property
    def runtime_info(self) -> tuple[str, ...]:
        """How it runs, for people."""

    def close(self) -> None: ...


@runtime_checkable
class GrowingEngine(Protocol):
    """An engine whose memory follows its requests, and that asks before it allocates more."""

    def ask_before_growing(self, grant: Callable[[int], bool]) -> None:
        """`grant(total_bytes)` answers at once, in any thread, whether the engine may hold so many bytes in all.

        After a refusal idle models are evicted where that suffices, so the same question may be granted later.
        """


@runtime_checkable
class WatchedEngine(Protocol):
    """An engine that computes in threads of its own, of which one may come to a standstill."""

    @property
    def busy_s(self) -> float:
        """For how long it has been at one step, a forward or a batch; infinite where its thread has ended."""


EngineT = TypeVar("EngineT", bound=Engine)


@dataclass(eq=False)
class Resident(Generic[EngineT]):
    """A model that is ready, until its memory is free again. Times are the residency's clock's."""

    model: Model
    engine: EngineT
    entry: Entry
    """Its account in the ledger."""
    since: float
    measured_at: float = field(init=False)
    draining: bool = False
    """It takes no new leases and is unloaded when the last one ends."""
    unloaded: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.measured_at = self.since
