"""A residency of 100 MiB whose clock, threads and engines are played."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from deployments.residency.ledger import MIB, Ledger, Limit
from deployments.residency.residency import Residency
from tests.deployments.residency.fakes import FakeEngine, Loader, PlayedThreads
from tests.support.clock import Clock


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def played_time(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The event loop's timers follow the played clock too."""
    monkeypatch.setattr(asyncio.get_running_loop(), "time", clock)
    return clock


@pytest.fixture
def threads() -> PlayedThreads:
    return PlayedThreads()


@pytest.fixture
async def residency(loader: Loader, threads: PlayedThreads, clock: Clock) -> AsyncIterator[Residency[FakeEngine]]:
    residency = Residency(Ledger(Limit(100 * MIB)), loader, clock=clock, threads=threads, idle_s=60)
    yield residency
    threads.resume()
    await residency.close()
