"""Leases hold a model in memory; unloads wait for them; plans and statuses show what is there."""

import asyncio

import pytest

from deployments.residency.ledger import MIB, Ledger, Limit
from deployments.residency.residency import Residency
from tests.deployments.residency.fakes import FakeEngine, Loader, PlayedThreads, load_for, model, states, use
from tests.support.clock import Clock
from tests.support.until import turns, until


async def test_a_model_in_memory_is_leased_without_a_load(residency: Residency[FakeEngine], loader: Loader) -> None:
    assert await use(residency, model("a", 10)) is await use(residency, model("a", 10))
    assert loader.loads == ["a"]


async def test_the_models_in_use_are_those_in_memory_that_were_used_since_then(
    residency: Residency[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency, "clock", lambda: 0.0)
    for at, name in enumerate("abc"):
        monkeypatch.setattr("time.time", lambda at=at: 100.0 + at)
        await use(residency, model(name, 10))
    await residency.unload(model("b", 10))
    assert [one.name for one in residency.used_since(100)] == ["c", "a"]
    assert [one.name for one in residency.used_since(101)] == ["c"]


async def test_changed_files_are_another_model_in_memory(residency: Residency[FakeEngine], loader: Loader) -> None:
    await use(residency, model("a", 10, digest="old"))
    await use(residency, model("a", 10, digest="new"))
    assert loader.loads == ["a", "a"]
    assert [(status.digest, status.state) for status in residency.statuses()] == [("old", "ready"), ("new", "ready")]


async def test_an_unload_waits_for_leases_and_later_requests_load_anew(
    residency: Residency[FakeEngine], loader: Loader
) -> None:
    async with residency.lease(model("a", 10), 10):
        old = loader.engines["a"]
        unloading = asyncio.create_task(residency.unload(model("a", 10)))
        late = asyncio.create_task(use(residency, model("a", 10)))
        await turns(10)
        assert not old.closed
    assert await unloading
    assert old.closed
    assert await late is not old
    assert [status.evictions for status in residency.statuses()] == [0], "an operator's unload is no eviction"
    assert not await residency.unload(model("never", 10))


async def test_a_model_that_nobody_used_for_a_while_is_evicted_unless_it_is_pinned(
    residency: Residency[FakeEngine], loader: Loader
) -> None:
    await use(residency, model("a", 10))
    await use(residency, model("pinned", 10, pinned=True))
    residency.sweep()
    assert states(residency) == {"a": "ready", "pinned": "ready"}
    for name in ("a", "pinned"):
        residency.history[f"{name}#digest"].last_use = 0.0
    residency.sweep()
    await until(lambda: states(residency)["a"] == "available")
    assert loader.engines["a"].closed
    assert not loader.engines["pinned"].closed


async def test_a_plan_shows_what_a_load_would_do_and_changes_nothing(
    residency: Residency[FakeEngine], threads: PlayedThreads, clock: Clock
) -> None:
    await load_for(3, model("a", 60), residency, threads, clock)
    clock.now += 3
    plan = residency.plan(model("b", 80), "r")
    assert (plan.replica, plan.name, plan.fits, plan.evicts, plan.measured) == ("r", "b", True, ("a",), False)
    assert plan.seconds == pytest.approx(4)  # 60 MiB took 3 s
    async with residency.lease(model("a", 60), 10):
        assert residency.plan(model("b", 80), "r").waits_for == ("a",)
        assert residency.plan(model("a", 60), "r").resident
    assert "the budget is 100 MiB" in (residency.plan(model("c", 101), "r").reason or "")
    assert states(residency) == {"a": "ready"}


async def test_a_plan_knows_the_size_that_an_earlier_load_measured(
    residency: Residency[FakeEngine], loader: Loader
) -> None:
    loader.actual_mb["a"] = 30
    await use(residency, model("a", 10))
    await residency.unload(model("a", 10))
    plan = residency.plan(model("a", 10), "r")
    assert (plan.needs_bytes, plan.measured, plan.resident) == (30 * MIB, True, False)


async def test_the_models_named_are_those_in_memory_or_being_loaded(
    residency: Residency[FakeEngine], threads: PlayedThreads
) -> None:
    await use(residency, model("a", 10))
    threads.hold_loads = threads.hold_unloads = True
    using = asyncio.create_task(use(residency, model("b", 10)))
    unloading = asyncio.create_task(residency.unload(model("a", 10)))
    await until(lambda: threads.loads and threads.unloads)
    assert residency.model_names() == ["b"]
    threads.resume()
    await asyncio.gather(using, unloading)


class HalfComesBack:
    """Memory of which an unload of 10 MiB gives back four."""

    def __init__(self) -> None:
        self.sizes = [110 * MIB, 106 * MIB, 106 * MIB]

    def held(self) -> int:
        return self.sizes.pop(0)

    def give_back(self) -> None:
        """Nothing."""


async def test_the_status_shows_the_process_size_around_the_last_unload(loader: Loader) -> None:
    residency = Residency(Ledger(Limit(100 * MIB)), loader, threads=PlayedThreads())
    residency.memory.device_memory = HalfComesBack()
    await use(residency, model("a", 10))
    (status,) = residency.statuses()
    assert (status.last_unload, status.notes) == (None, ("forward: fake",))
    await residency.unload(model("a", 10))
    (status,) = residency.statuses()
    assert status.state == "available"
    assert status.last_unload is not None
    sizes = (status.last_unload.bytes, status.last_unload.process_bytes_before, status.last_unload.process_bytes_after)
    assert sizes == (10 * MIB, 110 * MIB, 106 * MIB)
    await residency.close()


async def test_closing_closes_every_engine(
    residency: Residency[FakeEngine], loader: Loader, threads: PlayedThreads
) -> None:
    await use(residency, model("a", 10))
    await use(residency, model("b", 10))
    await residency.close()
    assert all(engine.closed for engine in loader.engines.values())
    assert residency.ledger.used_bytes == 0
    assert threads.closed
