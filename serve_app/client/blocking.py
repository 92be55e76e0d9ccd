"""Runs coroutines for callers that have no event loop, in one thread that all sync clients of a process share."""

import ctypes
import functools
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from anyio.from_thread import BlockingPortal, BlockingPortalProvider

from deployments.contract.errors import Cancelled

Result = TypeVar("Result")


@functools.cache
def _provider(pid: int) -> BlockingPortalProvider:
    """By process: a forked child has a copy of its parent's event loop, but not the thread that runs it."""
    provider = BlockingPortalProvider()
    # Never freed: it would wait for its thread, for ever once the interpreter has stopped all daemon threads.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(provider))
    return provider


class Portal:
    """One user of the event loop's thread. The thread ends with its last user, or, as a daemon, with the process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.is_open = True
        self._portal = _provider(self.pid).__enter__()
        self._calls: WeakSet[Call[Any]] = WeakSet()

    def start(self, function: Callable[[], Awaitable[Result]]) -> "Call[Result]":
        """Starts the call in the event loop's thread and does not wait for it."""
        if not self.is_open:
            raise RuntimeError("the client is closed")
        call = Call(self._portal, function)
        self._calls.add(call)
        if not self.is_open:  # Closed meanwhile by another thread, which may not have seen this call.
            call.cancel()
        return call

    def call(self, function: Callable[[], Awaitable[Result]]) -> Result:
        """The result of the call. An interrupt meanwhile, as by Ctrl-C, cancels it."""
        call = self.start(function)
        try:
            return call.result()
        finally:
            call.cancel()

    def close(self) -> None:
        """Cancels the calls under way."""
        if self.is_open:
            self.is_open = False
            for call in list(self._calls):
                call.cancel()
            _provider(self.pid).__exit__(None, None, None)


class Call(Generic[Result]):
    """A call under way in the event loop's thread."""

    def __init__(self, portal: BlockingPortal, function: Callable[[], Awaitable[Result]]) -> None:
        self._function = function
        self._ended: Future[None] = Future()
        self._future = portal.start_task_soon(self._run)

    async def _run(self) -> Result:
        try:
            return await self._function()
        finally:
            self._ended.set_result(None)

    def result(self) -> Result:
        """Raises what the call raises, and Cancelled where it was cancelled."""
        try:
            return self._future.result()
        except CancelledError:
            raise Cancelled("the client cancelled the request") from None

    def cancel(self) -> None:
        """Returns when the call has ended and what it held is closed: a cancelled future is done before that."""
        if self._future.cancel():
            self._ended.result()

    def abandon(self) -> None:
        """Cancels the call and does not wait. For any thread, the event loop's too."""
        self._future.cancel()
