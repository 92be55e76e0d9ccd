"""Who gets room, who leaves for it, and what an engine that grows may take."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from deployments.contract.errors import ModelLoadFailed, OutOfMemory, Overloaded
from deployments.repository.model import Model
from deployments.residency.eviction import MOST_REMEMBERED, CostAware
from deployments.residency.ledger import MIB, Ledger, Reservation, State
from deployments.residency.load_queue import TURN_S, LoadQueue
from deployments.residency.residency import Residency
from tests.deployments.residency.test_residency import FakeEngine, Loader, model, until, use
from tests.support.clock import Clock


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def residency(loader: Loader, clock: Clock) -> AsyncIterator[Residency[FakeEngine]]:
    residency = Residency(100 * MIB, loader, clock=clock, idle_s=60)
    yield residency
    loader.gate.set()
    await residency.close()


def states(residency: Residency[FakeEngine]) -> dict[str, str]:
    return {status.name: status.state for status in residency.statuses()}


async def load_for(seconds: float, cold: Model, residency: Residency[FakeEngine], loader: Loader, clock: Clock) -> None:
    """A first use whose load takes so long."""
    loader.gate.clear()
    using = asyncio.create_task(use(residency, cold))
    await until(lambda: loader.loads == [cold.name])
    clock.now += seconds
    loader.gate.set()
    await using


async def test_who_waits_for_leased_room_holds_up_no_other(residency: Residency[FakeEngine]) -> None:
    async with residency.lease(model("held", 60), 10):
        waiting = asyncio.create_task(use(residency, model("large", 80)))
        await until(lambda: states(residency).get("large") == "reserved")
        await asyncio.gather(use(residency, model("a", 20)), use(residency, model("b", 10)))
        assert not waiting.done()
    await waiting


@dataclass
class Newcomer:
    size: int


def filled(*sizes: int) -> Ledger:
    """A ledger of 100 bytes whose models are leased."""
    ledger = Ledger(100)
    for number, size in enumerate(sizes):
        name = str(number)
        ledger.reserve(name, size)
        assert ledger.begin(name)
        ledger.loaded(name)
        ledger.lease(name)
    return ledger


def test_those_who_came_later_cannot_take_what_the_first_in_line_waits_for() -> None:
    ledger = filled(40, 40)
    clock = Clock()
    line: LoadQueue[Newcomer] = LoadQueue(ledger, float, clock)
    first, second = Newcomer(60), Newcomer(40)
    line.join(first)
    line.join(second)
    ledger.release("0")
    # 20 free and 40 idle would do for the second, but they are the first's.
    admitted = line.admit()
    assert admitted == (first, ["0"])


def test_a_wait_in_vain_ends_ones_turn() -> None:
    ledger = filled(40, 60)
    clock = Clock()
    line: LoadQueue[Newcomer] = LoadQueue(ledger, lambda name: -float(name), clock)
    first, second = Newcomer(100), Newcomer(40)
    line.join(first)
    line.join(second)
    ledger.release("0")
    assert line.admit() is None
    clock.now += TURN_S
    assert line.admit() == (second, ["0"])


def test_room_that_is_promised_is_begun_only_once_it_is_free() -> None:
    ledger = filled(60)
    ledger.release("0")
    ledger.leave("0")
    ledger.reserve("new", 80)
    assert not ledger.begin("new")
    assert ledger.used_bytes == 60
    ledger.gone("0")
    assert ledger.begin("new")
    assert ledger.entries["new"].state is State.LOADING


def test_no_more_goes_than_needs_to() -> None:
    """The least worth first; what turns out needless stays."""
    ledger = filled(10, 20, 70)
    for name in "012":
        ledger.release(name)
    assert ledger.room_for(65, 0, float) == ["2"]
    assert ledger.room_for(25, 0, float) == ["0", "1"]
    assert ledger.room_for(25, 0, float, Reservation(frozenset("1"))) == ["2"]


def test_what_is_remembered_of_uses_is_bounded_and_the_latest_ones_are() -> None:
    policy = CostAware()
    policy.used("early and late", 0.0)
    for number in range(MOST_REMEMBERED):
        policy.used(f"m{number}", 0.0)
        policy.used("early and late", 0.0)
    assert len(policy._uses) == MOST_REMEMBERED
    assert policy.worth("early and late", 1, 1.0, 0.0) > policy.worth(f"m{MOST_REMEMBERED - 1}", 1, 1.0, 0.0)


async def test_what_is_known_to_be_broken_evicts_nobody(loader: Loader) -> None:
    def admit(model: Model) -> None:
        if model.name == "broken":
            raise ModelLoadFailed("no safetensors")

    residency = Residency(100 * MIB, loader, admit)
    await use(residency, model("a", 80))
    with pytest.raises(ModelLoadFailed, match="broken: no safetensors"):
        await use(residency, model("broken", 80))
    assert not loader.engines["a"].closed
    await residency.close()


async def test_a_wish_that_nobody_waits_for_evicts_nobody(residency: Residency[FakeEngine], loader: Loader) -> None:
    async with residency.lease(model("held", 80), 10):
        leaving = asyncio.create_task(use(residency, model("next", 80)))
        await until(lambda: states(residency).get("next") == "reserved")
        leaving.cancel()
        await until(lambda: states(residency)["next"] == "available")
    assert loader.loads == ["held"]
    assert states(residency)["held"] == "ready"


async def test_overload_says_how_long_the_leases_in_the_way_usually_last(
    residency: Residency[FakeEngine], clock: Clock
) -> None:
    for _ in range(30):
        async with residency.lease(model("held", 80), 10):
            clock.now += 4
    async with residency.lease(model("held", 80), 10):
        with pytest.raises(Overloaded) as refused:
            await use(residency, model("next", 80), timeout_s=0.01)
    assert 3500 < (refused.value.retry_after_ms or 0) <= 4000


async def test_a_model_stays_for_a_quarter_of_the_time_that_its_load_took(
    residency: Residency[FakeEngine], loader: Loader, clock: Clock
) -> None:
    """Else two models that want the same room would load without end."""
    await load_for(5, model("a", 80), residency, loader, clock)
    second = asyncio.create_task(use(residency, model("b", 80)))
    await until(lambda: states(residency).get("b") == "reserved")
    clock.now += 1.2
    residency.room.look()
    assert states(residency) == {"a": "ready", "b": "reserved"}
    clock.now += 0.2
    residency.room.look()
    await second
    assert states(residency) == {"a": "available", "b": "ready"}


async def test_what_nobody_uses_leaves_after_a_while(residency: Residency[FakeEngine], loader: Loader) -> None:
    await use(residency, model("a", 10))
    await use(residency, model("pinned", 10, pinned=True))
    residency.sweep()
    assert states(residency) == {"a": "ready", "pinned": "ready"}
    for record in ("a", "pinned"):
        residency.records.of(f"{record}#digest").last_use = 0.0
    residency.sweep()
    await until(lambda: states(residency)["a"] == "available")
    assert loader.engines["a"].closed
    assert not loader.engines["pinned"].closed


async def test_a_model_pinned_while_it_runs_stays(residency: Residency[FakeEngine]) -> None:
    await use(residency, model("a", 60))
    residency.pin(model("a", 60), True)
    with pytest.raises(OutOfMemory):
        await use(residency, model("b", 60))
    residency.pin(model("a", 60), False)
    await use(residency, model("b", 60))


async def test_an_unload_waits_for_leases_and_what_comes_meanwhile_loads_anew(
    residency: Residency[FakeEngine], loader: Loader
) -> None:
    async with residency.lease(model("a", 10), 10):
        old = loader.engines["a"]
        unloading = asyncio.create_task(residency.unload(model("a", 10)))
        late = asyncio.create_task(use(residency, model("a", 10)))
        await asyncio.sleep(0)
        assert not old.closed
    assert await unloading
    assert old.closed
    assert await late is not old
    assert not await residency.unload(model("never", 10))


async def test_a_plan_tells_what_a_load_would_do(
    residency: Residency[FakeEngine], loader: Loader, clock: Clock
) -> None:
    await load_for(3, model("a", 60), residency, loader, clock)
    clock.now += 3
    plan = residency.plan(model("b", 80), "r")
    assert (plan.fits, plan.evicts, plan.measured) == (True, ("a",), False)
    assert plan.seconds == pytest.approx(4)  # 60 MiB took 3 s
    async with residency.lease(model("a", 60), 10):
        assert residency.plan(model("b", 80), "r").waits_for == ("a",)
        assert residency.plan(model("a", 60), "r").resident
    assert "the budget is 100 MiB" in (residency.plan(model("c", 101), "r").reason or "")
    assert states(residency) == {"a": "ready"}


class Growing(FakeEngine):
    grant: Callable[[int], bool] | None = None

    def ask_before_growing(self, grant: Callable[[int], bool]) -> None:
        self.grant = grant


async def test_an_engine_grows_into_free_room_and_into_that_of_idle_models(clock: Clock) -> None:
    engines = {}

    def load(model: Model) -> FakeEngine:
        engines[model.name] = Growing(model.declared_bytes)
        return engines[model.name]

    residency = Residency(100 * MIB, load, clock=clock)
    await use(residency, model("idle", 40))
    async with residency.lease(model("a", 40), 10):
        grant = engines["a"].grant
        assert grant
        assert await asyncio.to_thread(grant, 60 * MIB)
        assert residency.ledger.used_bytes == 100 * MIB
        assert not await asyncio.to_thread(grant, 80 * MIB)
        await until(lambda: engines["idle"].closed and residency.ledger.used_bytes == 60 * MIB)
        assert await asyncio.to_thread(grant, 80 * MIB)
        assert not await asyncio.to_thread(grant, 101 * MIB)
    await residency.close()


async def test_an_engine_that_has_grown_unasked_is_measured_and_idle_models_leave_for_it(
    residency: Residency[FakeEngine], loader: Loader, clock: Clock
) -> None:
    await use(residency, model("idle", 40))
    async with residency.lease(model("a", 40), 10) as engine:
        engine.resident_bytes = 90 * MIB
        for _ in range(9):
            await use(residency, model("a", 40))
        clock.now += 2
    await until(lambda: loader.engines["idle"].closed)
    await until(lambda: residency.ledger.used_bytes == 90 * MIB)
