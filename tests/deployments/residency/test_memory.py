"""Which request gets memory, which models are evicted for it, and what an engine that grows may take."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from deployments.contract.errors import OutOfMemory
from deployments.repository.model import Model
from deployments.residency.ledger import MIB, Ledger, Limit
from deployments.residency.residency import Residency
from tests.deployments.residency.fakes import FakeEngine, Loader, PlayedThreads, model, states, use
from tests.support.clock import Clock
from tests.support.until import turns, until


async def test_idle_models_of_the_lowest_score_are_evicted_first(
    residency: Residency[FakeEngine], loader: Loader, clock: Clock
) -> None:
    for name in ("old", "new"):
        await use(residency, model(name, 40))
        clock.now += 10
    await use(residency, model("next", 40))
    assert loader.engines["old"].closed
    assert not loader.engines["new"].closed


async def test_a_leased_model_is_not_evicted_and_the_request_waits_for_its_lease(
    residency: Residency[FakeEngine], loader: Loader
) -> None:
    async with residency.lease(model("held", 80), 10):
        waiting = asyncio.create_task(use(residency, model("next", 80)))
        await until(lambda: states(residency).get("next") == "reserved")
        assert not loader.engines["held"].closed
    await waiting
    assert loader.engines["held"].closed


async def test_a_request_that_waits_for_leases_blocks_no_other(residency: Residency[FakeEngine]) -> None:
    async with residency.lease(model("held", 60), 10):
        waiting = asyncio.create_task(use(residency, model("large", 80)))
        await until(lambda: states(residency).get("large") == "reserved")
        await asyncio.gather(use(residency, model("a", 20)), use(residency, model("b", 10)))
        assert not waiting.done()
    await waiting


async def test_a_load_begins_when_the_engines_evicted_for_it_are_closed(
    residency: Residency[FakeEngine], loader: Loader, threads: PlayedThreads
) -> None:
    await use(residency, model("a", 80))
    threads.hold_unloads = True
    waiting = asyncio.create_task(use(residency, model("b", 80)))
    await until(lambda: threads.unloads)
    assert states(residency) == {"a": "unloading", "b": "reserved"}
    assert loader.loads == ["a"]
    threads.resume()
    await waiting
    assert states(residency) == {"a": "available", "b": "ready"}


async def test_two_models_that_are_never_idle_take_turns(
    residency: Residency[FakeEngine], loader: Loader, clock: Clock
) -> None:
    """The one in memory keeps its time slice, then takes no new leases until the other had its turn."""
    over = asyncio.Event()

    async def hold(lease_began: asyncio.Event) -> None:
        async with residency.lease(model("hot", 80), 60):
            lease_began.set()
            await over.wait()

    began = asyncio.Event()
    holding = asyncio.create_task(hold(began))
    await began.wait()
    waiting = asyncio.create_task(use(residency, model("other", 80), 60))
    await turns(10)
    assert states(residency) == {"hot": "ready", "other": "reserved"}
    clock.now += 1.9  # A lease is expected to last a second, and a time slice is two of them.
    residency.memory.grant_waiting()
    assert not residency.memory.residents["hot#digest"].draining
    clock.now += 0.2
    residency.memory.grant_waiting()
    assert residency.memory.residents["hot#digest"].draining
    late = asyncio.create_task(use(residency, model("hot", 80), 60))
    over.set()
    await asyncio.gather(holding, waiting, late)
    assert loader.loads == ["hot", "other", "hot"]
    assert [status.evictions for status in residency.statuses()] == [1, 1]


async def test_a_pinned_model_is_not_evicted(residency: Residency[FakeEngine], loader: Loader) -> None:
    await use(residency, model("pinned", 60, pinned=True))
    with pytest.raises(OutOfMemory, match="b: needs 50 MiB beside 60 MiB pinned, the budget is 100 MiB"):
        await use(residency, model("b", 50))
    assert not loader.engines["pinned"].closed


async def test_a_pin_holds_for_a_model_in_memory_until_it_is_removed(residency: Residency[FakeEngine]) -> None:
    await use(residency, model("a", 60))
    residency.apply_pin(model("a", 60), True)
    with pytest.raises(OutOfMemory):
        await use(residency, model("b", 60))
    residency.apply_pin(model("a", 60), False)
    await use(residency, model("b", 60))


async def test_a_pin_holds_for_a_model_that_waits_for_memory(residency: Residency[FakeEngine]) -> None:
    async with residency.lease(model("held", 80), 10):
        waiting = asyncio.create_task(use(residency, model("next", 80)))
        await until(lambda: states(residency).get("next") == "reserved")
        residency.apply_pin(model("next", 80), True)
    await waiting
    assert residency.ledger.entries["next#digest"].pinned


async def test_a_model_beyond_the_budget_evicts_no_other(residency: Residency[FakeEngine], loader: Loader) -> None:
    await use(residency, model("a", 50))
    with pytest.raises(OutOfMemory, match="b: needs 101 MiB, the budget is 100 MiB"):
        await use(residency, model("b", 101))
    assert not loader.engines["a"].closed
    assert "b" not in loader.loads


async def test_the_measured_size_replaces_the_declared_one(residency: Residency[FakeEngine], loader: Loader) -> None:
    loader.actual_mb["a"] = 30
    await use(residency, model("a", 10))
    assert residency.ledger.used_bytes == 30 * MIB


async def test_idle_models_are_evicted_for_one_that_has_grown_without_asking(
    residency: Residency[FakeEngine], loader: Loader, clock: Clock
) -> None:
    await use(residency, model("idle", 40))
    async with residency.lease(model("a", 40), 10) as engine:
        engine.resident_bytes = 90 * MIB
        for _ in range(9):  # Its score is the higher one.
            await use(residency, model("a", 40))
        clock.now += 2
    await until(lambda: loader.engines["idle"].closed)
    await until(lambda: residency.ledger.used_bytes == 90 * MIB)


@dataclass(eq=False)
class Growing(FakeEngine):
    grant: Callable[[int], bool] | None = None

    def ask_before_growing(self, grant: Callable[[int], bool]) -> None:
        self.grant = grant


async def test_an_engine_that_asks_grows_into_free_memory_and_into_that_of_idle_models(clock: Clock) -> None:
    engines: dict[str, Growing] = {}

    def build(model: Model) -> Growing:
        engines[model.name] = Growing(model.declared_bytes)
        return engines[model.name]

    residency: Residency[Growing] = Residency(Ledger(Limit(100 * MIB)), build, clock=clock, threads=PlayedThreads())
    async with residency.lease(model("idle", 40), 10):
        """Loaded."""
    async with residency.lease(model("a", 40), 10):
        grant = engines["a"].grant
        assert grant
        assert await asyncio.to_thread(grant, 60 * MIB)
        assert residency.ledger.used_bytes == 100 * MIB
        assert not await asyncio.to_thread(grant, 80 * MIB), "an idle model is evicted first"
        await until(lambda: engines["idle"].closed and residency.ledger.used_bytes == 60 * MIB)
        assert await asyncio.to_thread(grant, 80 * MIB)
        assert not await asyncio.to_thread(grant, 101 * MIB)
    await residency.close()
