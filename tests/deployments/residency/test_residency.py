"""Leases hold, one load serves all, the budget is never exceeded, failures are remembered and change nothing."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deployments.contract.errors import ModelLoadFailed, OutOfMemory, Overloaded
from deployments.repository.manifest import Manifest
from deployments.repository.model import Model
from deployments.residency.history import FIRST_BACK_OFF_S
from deployments.residency.ledger import MIB
from deployments.residency.residency import Residency
from tests.support.clock import Clock


def model(name: str, size_mb: float, pinned: bool = False) -> Model:
    return Model(name, None, Path(name), "digest", "text_generation", Manifest(memory_mb=size_mb, pinned=pinned))


@dataclass
class FakeEngine:
    resident_bytes: int
    closed: bool = False
    runtime_info: tuple[str, ...] = ("forward: fake",)

    def close(self) -> None:
        self.closed = True


@dataclass
class Loader:
    """Loads fake engines of the declared size, counts, and waits or fails on demand."""

    loads: list[str] = field(default_factory=list)
    engines: dict[str, FakeEngine] = field(default_factory=dict)
    gate: threading.Event = field(default_factory=threading.Event)
    """Closed, it holds loads up."""
    failure: Exception | None = None
    actual_mb: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gate.set()

    def __call__(self, model: Model) -> FakeEngine:
        self.loads.append(model.name)
        assert self.gate.wait(10)
        if self.failure is not None:
            raise self.failure
        size_mb = self.actual_mb.get(model.name, model.declared_bytes / MIB)
        self.engines[model.name] = FakeEngine(int(size_mb * MIB))
        return self.engines[model.name]


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def residency(loader: Loader, clock: Clock) -> AsyncIterator[Residency[FakeEngine]]:
    residency = Residency(100 * MIB, loader, clock=clock)
    yield residency
    loader.gate.set()
    await residency.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def use(residency: Residency[FakeEngine], model: Model, timeout_s: float = 10) -> FakeEngine:
    async with residency.lease(model, timeout_s) as engine:
        return engine


async def test_200_callers_of_a_cold_model_make_one_load(residency: Residency[FakeEngine], loader: Loader) -> None:
    engines = await asyncio.gather(*(use(residency, model("a", 10)) for _ in range(200)))
    assert loader.loads == ["a"]
    assert all(engine is engines[0] for engine in engines)


async def test_two_models_load_side_by_side(residency: Residency[FakeEngine], loader: Loader) -> None:
    loader.gate.clear()
    both = asyncio.gather(use(residency, model("a", 10)), use(residency, model("b", 10)))
    await until(lambda: len(loader.loads) == 2)
    assert {status.state for status in residency.statuses()} == {"loading"}
    loader.gate.set()
    await both


async def test_a_caller_who_leaves_does_not_take_the_load_along(
    residency: Residency[FakeEngine], loader: Loader
) -> None:
    loader.gate.clear()
    leaving = asyncio.create_task(use(residency, model("a", 10)))
    staying = asyncio.create_task(use(residency, model("a", 10)))
    await until(lambda: loader.loads == ["a"])
    leaving.cancel()
    loader.gate.set()
    await staying
    assert loader.loads == ["a"]


async def test_room_is_made_of_idle_models_least_worth_first(
    residency: Residency[FakeEngine], loader: Loader, clock: Clock
) -> None:
    for name in ("old", "new"):
        await use(residency, model(name, 40))
        clock.now += 10
    await use(residency, model("next", 40))
    assert loader.engines["old"].closed
    assert not loader.engines["new"].closed


async def test_a_leased_model_is_never_evicted_and_its_room_waited_for(
    residency: Residency[FakeEngine], loader: Loader
) -> None:
    async with residency.lease(model("held", 80), 10):
        waiting = asyncio.create_task(use(residency, model("next", 80)))
        await until(lambda: bool(residency.statuses()[1:]))
        assert not loader.engines["held"].closed
    await waiting
    assert loader.engines["held"].closed


async def test_a_model_that_is_never_idle_does_not_starve_one_that_waits_for_its_room(
    residency: Residency[FakeEngine], loader: Loader, clock: Clock
) -> None:
    """It keeps the room for its slice, then takes no new leases until the other had its turn."""
    over = asyncio.Event()

    async def hold(lease_began: asyncio.Event) -> None:
        async with residency.lease(model("hot", 80), 60):
            lease_began.set()
            await over.wait()

    began = asyncio.Event()
    holding = asyncio.create_task(hold(began))
    await began.wait()
    waiting = asyncio.create_task(use(residency, model("other", 80), 60))
    await until(lambda: bool(residency.room._line))
    clock.now += 1.9  # a lease is expected to last a second, a slice is two of them
    residency.room.look()
    assert not residency.room.residents["hot#digest"].leaving
    clock.now += 0.2
    residency.room.look()
    late = asyncio.create_task(use(residency, model("hot", 80), 60))
    await asyncio.sleep(0)
    assert not late.done()
    over.set()
    await asyncio.gather(holding, waiting, late)
    assert loader.loads == ["hot", "other", "hot"]
    assert [status.evictions for status in residency.statuses()] == [1, 1]


async def test_room_that_leases_hold_until_the_deadline_is_overload(loader: Loader) -> None:
    residency = Residency(100 * MIB, loader)
    async with residency.lease(model("held", 80), 10):
        with pytest.raises(Overloaded, match="next: models in use hold the memory it needs"):
            await use(residency, model("next", 80), timeout_s=0.01)
        assert not loader.engines["held"].closed
    # Overload is no fault of the model: it is not remembered against it.
    await use(residency, model("next", 80))


async def test_a_pinned_model_stays(residency: Residency[FakeEngine], loader: Loader) -> None:
    await use(residency, model("pinned", 60, pinned=True))
    with pytest.raises(OutOfMemory, match="needs 50 MiB, the budget is 100 MiB beside 60 MiB pinned"):
        await use(residency, model("b", 50))
    assert not loader.engines["pinned"].closed


async def test_a_model_beyond_the_budget_evicts_nobody(residency: Residency[FakeEngine], loader: Loader) -> None:
    await use(residency, model("a", 50))
    with pytest.raises(OutOfMemory, match="needs 101 MiB, the budget is 100 MiB"):
        await use(residency, model("b", 101))
    assert not loader.engines["a"].closed
    assert "b" not in loader.loads


async def test_a_failed_load_changes_nothing_and_is_remembered_for_a_while(
    residency: Residency[FakeEngine], loader: Loader, clock: Clock
) -> None:
    loader.failure = ModelLoadFailed("no good")
    for _ in range(3):
        with pytest.raises(ModelLoadFailed, match="bad: no good") as failed:
            await use(residency, model("bad", 10))
    assert loader.loads == ["bad"]
    assert failed.value.retry_after_ms == FIRST_BACK_OFF_S * 1000
    assert residency.ledger.used_bytes == 0
    assert residency.statuses()[0].reason == "bad: no good"
    clock.now += FIRST_BACK_OFF_S
    loader.failure = None
    await use(residency, model("bad", 10))
    assert [(status.state, status.notes) for status in residency.statuses()] == [("ready", ("forward: fake",))]


async def test_200_callers_of_a_failing_model_make_one_attempt_in_each_back_off_window(
    residency: Residency[FakeEngine], loader: Loader, clock: Clock
) -> None:
    loader.failure = ModelLoadFailed("no good")
    for attempt, window_s in enumerate((5, 10, 20), 1):
        for _ in range(3):
            answers = await asyncio.gather(
                *(use(residency, model("bad", 10)) for _ in range(200)), return_exceptions=True
            )
            assert all(isinstance(answer, ModelLoadFailed) for answer in answers)
            clock.now += window_s / 4
        assert loader.loads == ["bad"] * attempt
        clock.now += window_s / 4


async def test_an_unexpected_failure_keeps_its_reason_to_the_log(
    residency: Residency[FakeEngine], loader: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    loader.failure = RuntimeError("/secret/path")
    with pytest.raises(ModelLoadFailed, match="^bad: RuntimeError while loading$"):
        await use(residency, model("bad", 10))
    assert "/secret/path" in caplog.text


class HalfComesBack:
    """Memory of which an unload of 10 MiB gives back four."""

    def __init__(self) -> None:
        self.sizes = [110 * MIB, 106 * MIB, 106 * MIB]

    def held(self) -> int:
        return self.sizes.pop(0)

    def give_back(self) -> None: ...


async def test_the_status_shows_what_the_process_took_around_the_last_unload(loader: Loader) -> None:
    residency = Residency(100 * MIB, loader, memory=HalfComesBack())
    await use(residency, model("a", 10))
    assert residency.statuses()[0].last_unload is None
    await residency.unload(model("a", 10))
    (status,) = residency.statuses()
    assert status.state == "available"
    assert status.last_unload is not None
    sizes = (status.last_unload.bytes, status.last_unload.process_bytes_before, status.last_unload.process_bytes_after)
    assert sizes == (10 * MIB, 110 * MIB, 106 * MIB)
    await residency.close()


async def test_closing_closes_every_engine(residency: Residency[FakeEngine], loader: Loader) -> None:
    await use(residency, model("a", 10))
    await use(residency, model("b", 10))
    await residency.close()
    assert all(engine.closed for engine in loader.engines.values())
    assert residency.ledger.used_bytes == 0
