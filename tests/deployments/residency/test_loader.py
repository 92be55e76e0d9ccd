"""One load for all callers; a caller that gives up changes nothing for the others; failures are remembered."""

import asyncio

import pytest

from deployments.contract.errors import DeadlineExceeded, ModelLoadFailed, OutOfMemory, Overloaded
from deployments.repository.model import Model
from deployments.residency.history import MIN_BACK_OFF_S
from deployments.residency.ledger import MIB, Ledger, Limit
from deployments.residency.loader import MEMORY_WAIT_SHARE, PROTECTED_LOADS
from deployments.residency.residency import Residency
from tests.deployments.residency.fakes import FakeEngine, Loader, PlayedThreads, load_for, model, states, use
from tests.support.clock import Clock
from tests.support.until import turns, until


async def test_200_callers_of_a_cold_model_make_one_load(residency: Residency[FakeEngine], loader: Loader) -> None:
    engines = await asyncio.gather(*(use(residency, model("a", 10)) for _ in range(200)))
    assert loader.loads == ["a"]
    assert all(engine is engines[0] for engine in engines)


async def test_two_models_load_side_by_side(residency: Residency[FakeEngine], threads: PlayedThreads) -> None:
    threads.hold_loads = True
    both = asyncio.gather(use(residency, model("a", 10)), use(residency, model("b", 10)))
    await until(lambda: len(threads.loads) == 2)
    assert states(residency) == {"a": "loading", "b": "loading"}
    threads.resume()
    await both


async def test_a_cancelled_caller_does_not_end_the_load_of_the_others(
    residency: Residency[FakeEngine], loader: Loader, threads: PlayedThreads
) -> None:
    threads.hold_loads = True
    first = asyncio.create_task(use(residency, model("a", 10)))
    second = asyncio.create_task(use(residency, model("a", 10)))
    await until(lambda: threads.loads)
    first.cancel()
    threads.resume()
    await second
    assert loader.loads == ["a"]
    assert residency.ledger.entries["a#digest"].leases == 0


async def test_a_caller_cancelled_just_when_its_load_ends_leaves_no_lease(
    residency: Residency[FakeEngine], threads: PlayedThreads
) -> None:
    threads.hold_loads = True
    caller = asyncio.create_task(use(residency, model("a", 10)))
    await until(lambda: threads.loads)
    threads.resume()
    await until(lambda: states(residency)["a"] == "ready")
    assert residency.ledger.entries["a#digest"].leases == 1, "the load took the lease for its caller"
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert residency.ledger.entries["a#digest"].leases == 0


async def test_a_request_that_nobody_waits_for_evicts_no_model(
    residency: Residency[FakeEngine], loader: Loader
) -> None:
    async with residency.lease(model("held", 80), 10):
        caller = asyncio.create_task(use(residency, model("next", 80)))
        await until(lambda: states(residency).get("next") == "reserved")
        caller.cancel()
        await until(lambda: states(residency)["next"] == "available")
    assert loader.loads == ["held"]
    assert states(residency)["held"] == "ready"


async def test_a_request_ends_as_overloaded_when_leases_hold_the_memory_for_most_of_its_time(
    residency: Residency[FakeEngine], loader: Loader, played_time: Clock
) -> None:
    async with residency.lease(model("held", 80), 10):
        refused = asyncio.create_task(use(residency, model("next", 80), timeout_s=1.0))
        await turns(10)
        played_time.now += MEMORY_WAIT_SHARE - 0.01
        await turns(10)
        assert not refused.done()
        played_time.now += 0.01
        with pytest.raises(Overloaded, match="next: models in use hold the memory it needs"):
            await refused
        assert not loader.engines["held"].closed
    # The model is not at fault, so nothing is remembered against it.
    await use(residency, model("next", 80))


async def test_overloaded_carries_how_long_the_leases_in_the_way_usually_last(
    residency: Residency[FakeEngine], played_time: Clock
) -> None:
    for _ in range(30):
        async with residency.lease(model("held", 80), 10):
            played_time.now += 4
    async with residency.lease(model("held", 80), 10):
        waiting = asyncio.create_task(use(residency, model("next", 80), timeout_s=1.0))
        await turns(10)
        played_time.now += 1
        with pytest.raises(Overloaded) as refused:
            await waiting
    assert 3500 < (refused.value.retry_after_ms or 0) <= 4000


async def test_a_load_that_outlasts_its_callers_goes_on_and_serves_the_next_one(
    residency: Residency[FakeEngine], threads: PlayedThreads, loader: Loader, played_time: Clock
) -> None:
    threads.hold_loads = True
    late = asyncio.create_task(use(residency, model("a", 10), timeout_s=1.0))
    await turns(10)
    played_time.now += 1.0
    with pytest.raises(DeadlineExceeded, match="a is still being loaded"):
        await late
    next_caller = asyncio.create_task(use(residency, model("a", 10)))
    await turns(10)
    threads.resume()
    await next_caller
    assert loader.loads == ["a"]


async def test_a_failed_load_changes_nothing_and_is_remembered_for_its_back_off(
    residency: Residency[FakeEngine], loader: Loader, clock: Clock
) -> None:
    loader.failure = ModelLoadFailed.for_now("no good")
    for _ in range(3):
        with pytest.raises(ModelLoadFailed, match="bad: no good") as failed:
            await use(residency, model("bad", 10))
    assert loader.loads == ["bad"]
    assert failed.value.retry_after_ms == MIN_BACK_OFF_S * 1000
    assert residency.ledger.used_bytes == 0
    assert residency.statuses()[0].reason == "bad: no good"
    clock.now += MIN_BACK_OFF_S
    loader.failure = None
    await use(residency, model("bad", 10))
    assert [(status.state, status.reason) for status in residency.statuses()] == [("ready", None)]


async def test_200_callers_of_a_failing_model_make_one_attempt_in_each_back_off_window(
    residency: Residency[FakeEngine], loader: Loader, clock: Clock
) -> None:
    loader.failure = ModelLoadFailed.for_now("no good")
    for attempt, window_s in enumerate((5, 10, 20), 1):
        for _ in range(3):
            answers = await asyncio.gather(
                *(use(residency, model("bad", 10)) for _ in range(200)), return_exceptions=True
            )
            assert all(isinstance(answer, ModelLoadFailed) for answer in answers)
            clock.now += window_s / 4
        assert loader.loads == ["bad"] * attempt
        clock.now += window_s / 4


async def test_an_unexpected_failure_is_logged_and_its_message_goes_to_nobody(
    residency: Residency[FakeEngine], loader: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    loader.failure = RuntimeError("/secret/path")
    with pytest.raises(ModelLoadFailed, match="^bad: RuntimeError while loading$"):
        await use(residency, model("bad", 10))
    assert "/secret/path" in caplog.text


async def test_a_model_that_fails_its_validation_evicts_no_other(loader: Loader) -> None:
    def validate(model: Model) -> None:
        if model.name == "broken":
            raise ModelLoadFailed("no safetensors")

    residency = Residency(Ledger(Limit(100 * MIB)), loader, validate, threads=PlayedThreads())
    await use(residency, model("a", 80))
    with pytest.raises(ModelLoadFailed, match="broken: no safetensors"):
        await use(residency, model("broken", 80))
    assert not loader.engines["a"].closed
    await residency.close()


async def test_a_model_is_protected_for_a_part_of_the_time_that_its_load_took(
    residency: Residency[FakeEngine], threads: PlayedThreads, clock: Clock
) -> None:
    """Else two models that need the same memory would evict each other without end."""
    await load_for(5, model("a", 80), residency, threads, clock)
    second = asyncio.create_task(use(residency, model("b", 80)))
    await turns(10)
    clock.now += 5 * PROTECTED_LOADS - 0.05
    residency.memory.grant_waiting()
    assert states(residency) == {"a": "ready", "b": "reserved"}
    clock.now += 0.1
    residency.memory.grant_waiting()
    await second
    assert states(residency) == {"a": "available", "b": "ready"}


async def test_a_model_larger_than_declared_waits_for_the_memory_that_it_needs(
    residency: Residency[FakeEngine], loader: Loader
) -> None:
    loader.actual_mb["a"] = 30
    async with residency.lease(model("b", 80), 10):
        late = asyncio.create_task(use(residency, model("a", 10)))
        await until(lambda: loader.loads == ["b", "a"] and loader.engines["a"].closed)
    assert not (await late).closed
    assert loader.loads == ["b", "a", "a"]
    assert residency.ledger.used_bytes == 30 * MIB


async def test_a_caller_that_comes_while_a_load_reserves_more_waits_with_it(
    residency: Residency[FakeEngine], loader: Loader
) -> None:
    loader.actual_mb["a"] = 30
    async with residency.lease(model("b", 80), 10):
        first = asyncio.create_task(use(residency, model("a", 10)))
        await until(lambda: "a" in loader.engines and loader.engines["a"].closed)
        second = asyncio.create_task(use(residency, model("a", 10)))
        await turns(10)
    assert [engine.closed for engine in await asyncio.gather(first, second)] == [False, False]
    assert loader.loads == ["b", "a", "a"]


async def test_a_model_larger_than_the_budget_is_closed_and_its_load_fails(
    residency: Residency[FakeEngine], loader: Loader
) -> None:
    loader.actual_mb["a"] = 130
    with pytest.raises(OutOfMemory, match="needs 130 MiB, the budget is 100 MiB: "):
        await use(residency, model("a", 10))
    assert loader.engines["a"].closed
    assert residency.ledger.used_bytes == 0


async def test_a_load_waits_where_others_have_grown_meanwhile(
    residency: Residency[FakeEngine], loader: Loader, threads: PlayedThreads, clock: Clock
) -> None:
    async with residency.lease(model("b", 80), 10) as grown:
        threads.hold_loads = True
        late = asyncio.create_task(use(residency, model("a", 10)))
        await until(lambda: threads.loads)
        grown.resident_bytes = 95 * MIB
        clock.now += 2
        residency.sweep()
        threads.resume()
        await until(lambda: "a" in loader.engines and loader.engines["a"].closed)
    assert not (await late).closed
    assert residency.statuses()[1].reason is None


async def test_a_model_with_which_the_kernel_killed_a_replica_gets_more_room(
    residency: Residency[FakeEngine], loader: Loader
) -> None:
    await use(residency, model("other", 40))
    residency.history.outgrown = {"a#digest": 80 * MIB}.get
    await use(residency, model("a", 10))
    assert loader.engines["other"].closed
    assert residency.ledger.entries["a#digest"].bytes == 80 * MIB, "others leave it this room as long as it is there"


async def test_a_model_with_which_the_kernel_killed_a_replica_is_refused_with_numbers_where_there_is_no_room(
    residency: Residency[FakeEngine], loader: Loader
) -> None:
    residency.history.outgrown = {"a#digest": 130 * MIB}.get
    reason = "a: needs 130 MiB, the budget is 100 MiB: .*; the kernel has killed a replica with it"
    with pytest.raises(OutOfMemory, match=reason):
        await use(residency, model("a", 10))
    assert loader.loads == []
