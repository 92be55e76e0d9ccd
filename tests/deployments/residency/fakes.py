"""A model, an engine, a loader and threads for tests of residency: nothing happens before the test lets it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from deployments.repository.manifest import Manifest
from deployments.repository.model import Model
from deployments.residency.ledger import MIB
from deployments.residency.residency import Residency
from deployments.residency.threads import Threads
from tests.support.clock import Clock
from tests.support.until import turns, until

T = TypeVar("T")


def model(name: str, size_mb: float, pinned: bool = False, digest: str = "digest") -> Model:
    return Model(name, None, Path(name), digest, "text_generation", Manifest(memory_mb=size_mb, pinned=pinned))


@dataclass(eq=False)
class FakeEngine:
    resident_bytes: int
    closed: bool = False
    runtime_info: tuple[str, ...] = ("forward: fake",)

    def close(self) -> None:
        self.closed = True


@dataclass
class Loader:
    """Builds fake engines of the declared size, or of `actual_mb`; counts; fails on demand."""

    loads: list[str] = field(default_factory=list)
    engines: dict[str, FakeEngine] = field(default_factory=dict)
    failure: Exception | None = None
    actual_mb: dict[str, float] = field(default_factory=dict)

    def __call__(self, model: Model) -> FakeEngine:
        self.loads.append(model.name)
        if self.failure is not None:
            raise self.failure
        size_mb = self.actual_mb.get(model.name, model.declared_bytes / MIB)
        self.engines[model.name] = FakeEngine(int(size_mb * MIB))
        return self.engines[model.name]


@dataclass(eq=False)
class Work:
    """What a thread would do."""

    work: Callable[[], Any]
    done: "asyncio.Future[Any]"

    def finish(self) -> None:
        try:
            self.done.set_result(self.work())
        except Exception as failure:
            self.done.set_exception(failure)


class PlayedThreads(Threads):
    """Does its work in the event loop: at once, or while it is held when the test finishes it."""

    def __init__(self, hold_loads: bool = False, hold_unloads: bool = False) -> None:
        self.hold_loads = hold_loads
        self.hold_unloads = hold_unloads
        self.loads: list[Work] = []
        self.unloads: list[Work] = []
        self.closed = False

    async def validate(self, work: Callable[[], T]) -> T:
        await turns()
        return work()

    async def load(self, work: Callable[[], T]) -> T:
        return await self._do(work, self.loads, self.hold_loads)

    async def unload(self, work: Callable[[], T]) -> T:
        return await self._do(work, self.unloads, self.hold_unloads)

    def close(self) -> None:
        self.closed = True

    def resume(self) -> None:
        """Finish the work that is held, and hold no more."""
        self.hold_loads = self.hold_unloads = False
        for held in (self.loads, self.unloads):
            while held:
                held.pop(0).finish()

    async def _do(self, work: Callable[[], T], held: list[Work], hold: bool) -> T:
        if not hold:
            await turns()
            return work()
        item = Work(work, asyncio.get_running_loop().create_future())
        held.append(item)
        result: T = await item.done
        return result


async def use(residency: Residency[FakeEngine], model: Model, timeout_s: float = 10) -> FakeEngine:
    async with residency.lease(model, timeout_s) as engine:
        return engine


def states(residency: Residency[FakeEngine]) -> dict[str, str]:
    return {status.name: status.state for status in residency.statuses()}


async def load_for(
    seconds: float, cold: Model, residency: Residency[FakeEngine], threads: PlayedThreads, clock: Clock
) -> None:
    """A first use whose load takes so long."""
    threads.hold_loads = True
    using = asyncio.create_task(use(residency, cold))
    await until(lambda: threads.loads)
    clock.now += seconds
    threads.resume()
    await using
