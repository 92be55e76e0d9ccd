"""What a model measures counts, not what it declared."""

import asyncio
from typing import Any

import pytest

from deployments.contract.errors import OutOfMemory
from deployments.residency.ledger import MIB
from deployments.residency.residency import Residency
from tests.deployments.residency.test_residency import FakeEngine, Loader, clock, loader, model, residency, until, use
from tests.support.clock import Clock

__all__ = ["clock", "loader", "residency"]  # fixtures


async def test_measured_bytes_replace_declared_ones(residency: Residency[FakeEngine], loader: Loader) -> None:
    loader.actual_mb["a"] = 30
    await use(residency, model("a", 10))
    assert residency.ledger.used_bytes == 30 * MIB


async def test_a_model_that_turns_out_too_large_is_closed(residency: Residency[FakeEngine], loader: Loader) -> None:
    loader.actual_mb["a"] = 130
    with pytest.raises(OutOfMemory, match="takes 130 MiB, 10 MiB were declared"):
        await use(residency, model("a", 10))
    assert loader.engines["a"].closed
    assert residency.ledger.used_bytes == 0


async def test_a_model_larger_than_declared_waits_for_the_room_that_it_takes(
    residency: Residency[FakeEngine], loader: Loader
) -> None:
    loader.actual_mb["a"] = 30
    async with residency.lease(model("b", 80), 10):
        late = asyncio.create_task(use(residency, model("a", 10)))
        await until(lambda: loader.loads == ["b", "a"] and loader.engines["a"].closed)
    assert not (await late).closed
    assert loader.loads == ["b", "a", "a"]
    assert residency.ledger.used_bytes == 30 * MIB
    await residency.unload(model("a", 10))
    async with residency.lease(model("b", 80), 10):
        assert residency.plan(model("a", 10), "").needs_bytes == 30 * MIB


async def test_who_comes_just_when_a_load_has_to_wait_again_waits_with_it(
    residency: Residency[FakeEngine], loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, late = residency.room.settle, []

    async def settled(*arguments: Any) -> None:
        try:
            await settle(*arguments)
        except OutOfMemory:
            late.append(asyncio.create_task(use(residency, model("a", 10))))
            await asyncio.sleep(0)
            raise

    monkeypatch.setattr(residency.room, "settle", settled)
    loader.actual_mb["a"] = 30
    async with residency.lease(model("b", 80), 10):
        late.append(asyncio.create_task(use(residency, model("a", 10))))
        await until(lambda: len(late) == 2)
        for _ in range(10):
            await asyncio.sleep(0)
    assert [engine.closed for engine in await asyncio.gather(*late)] == [False, False]


async def test_a_load_waits_where_others_have_grown_meanwhile(
    residency: Residency[FakeEngine], loader: Loader, clock: Clock
) -> None:
    async with residency.lease(model("b", 80), 10) as grown:
        loader.gate.clear()
        late = asyncio.create_task(use(residency, model("a", 10)))
        await until(lambda: "a" in loader.loads)
        grown.resident_bytes = 95 * MIB
        clock.now += 2
        residency.sweep()
        loader.gate.set()
        await until(lambda: "a" in loader.engines and loader.engines["a"].closed)
    assert not (await late).closed
    assert residency.statuses()[1].reason is None
