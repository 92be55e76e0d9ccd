"""Calls run in one thread that exists while someone uses it."""

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from deployments.contract.errors import Cancelled
from serve_app.client.blocking import Portal
from tests.support import PROJECT


async def thread_id() -> int:
    return threading.get_ident()


def test_all_users_share_a_thread_that_ends_with_the_last() -> None:
    first, second = Portal(), Portal()
    ident = first.call(thread_id)
    assert second.call(thread_id) == ident != threading.get_ident()
    first.close()
    assert second.call(thread_id) == ident
    second.close()
    assert ident not in {thread.ident for thread in threading.enumerate()}


def test_the_next_user_starts_another_thread() -> None:
    Portal().close()
    portal = Portal()
    assert portal.call(thread_id)
    portal.close()


def test_a_cancelled_call_has_ended_when_cancel_returns() -> None:
    started, closed = threading.Event(), threading.Event()

    async def hold() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
            closed.set()

    portal = Portal()
    call = portal.start(hold)
    started.wait()
    call.cancel()
    assert closed.is_set()
    with pytest.raises(Cancelled):
        call.result()
    portal.close()


def test_close_cancels_what_other_threads_wait_for() -> None:
    portal = Portal()
    started = threading.Event()

    async def hold() -> None:
        started.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(portal.call, hold)
        started.wait()
        portal.close()
        assert isinstance(waiting.exception(), Cancelled)
    with pytest.raises(RuntimeError, match="closed"):
        portal.call(hold)


def test_what_a_call_raises_is_raised() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    portal = Portal()
    with pytest.raises(ZeroDivisionError):
        portal.call(fail)
    portal.close()


EXIT = """
from serve_app.client.blocking import Portal

async def answer() -> int:
    return 5

kept = Portal()
print(kept.call(answer), Portal().call(answer))
"""


def test_a_process_whose_portals_nobody_closed_ends() -> None:
    ended = subprocess.run([sys.executable, "-c", EXIT], cwd=PROJECT, stdout=subprocess.PIPE, timeout=60, check=True)
    assert ended.stdout == b"5 5\n"
