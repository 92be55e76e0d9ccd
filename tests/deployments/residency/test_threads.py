"""Which thread does what, so that no load waits for a validation and no two unloads run at once."""

import threading
from collections.abc import Iterator

import pytest

from deployments.residency.threads import Threads


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads()
    yield threads
    threads.close()


async def test_each_load_has_a_thread_that_ends_with_it(threads: Threads) -> None:
    first = await threads.load(threading.current_thread)
    second = await threads.load(threading.current_thread)
    assert first is not second
    first.join(10)
    assert not first.is_alive()


async def test_unloads_share_one_thread_which_no_validation_uses(threads: Threads) -> None:
    unloading = await threads.unload(threading.current_thread)
    assert await threads.unload(threading.current_thread) is unloading
    assert await threads.validate(threading.current_thread) is not unloading


async def test_a_failure_is_raised_where_the_work_was_awaited(threads: Threads) -> None:
    def fail() -> None:
        raise ValueError("broken")

    for run in (threads.validate, threads.load, threads.unload):
        with pytest.raises(ValueError, match="broken"):
            await run(fail)
