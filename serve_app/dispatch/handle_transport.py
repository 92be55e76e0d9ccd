"""Calls for one model by Serve's handle: those that wait at the same moment share one handle call, an exchange.

At most one exchange of a transport is in transit, that is, sent and not yet acknowledged. Calls that come meanwhile
gather and go with the next one. So a lone call never waits, and the busier the transport, the fuller its exchanges.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from deployments.contract.chat import Message
from deployments.contract.errors import Overloaded
from deployments.contract.types import InferResponse
from deployments.replica.calls import ReplicaLost
from serve_app.dispatch.broadcast import LOST, broadcast
from serve_app.dispatch.pending import Pending

logger = logging.getLogger("model_runtime.dispatch")

CALLS_TOGETHER = 64
BYTES_TOGETHER = 4 << 20


@dataclass(eq=False, slots=True)
class _Exchange:
    task: "asyncio.Task[Any]"
    calls: list[Pending]
    awaited: int
    """How many of its calls somebody waits for."""
    in_transit: bool = True


class HandleTransport:
    """`handle` is the deployment's; Serve chooses the replica."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle
        self._exchange: Any = handle.options(stream=True).exchange
        self._waiting: deque[Pending] = deque()
        self._exchanges: dict[Pending, _Exchange] = {}
        self._in_transit = 0
        self._scheduled = False
        self._cancelled: list[str] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._tasks

    async def send(self, pending: Pending) -> InferResponse:
        """Raises ReplicaLost, Overloaded, and what else the handle raises."""
        if pending.repeated:
            self._start([pending])  # Alone: if it is what ended the replica, no other call is lost with it.
        else:
            self._waiting.append(pending)
            self._schedule()
        try:
            return await pending.response
        finally:
            self._ended(pending)

    def _schedule(self) -> None:
        """Sends at the end of this turn of the loop, together with what else comes within it."""
        if not self._scheduled and not self._in_transit:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._send_waiting)

    def _send_waiting(self) -> None:
        self._scheduled = False
        calls: list[Pending] = []
        size = 0
        while self._waiting and len(calls) < CALLS_TOGETHER and size < BYTES_TOGETHER:
            pending = self._waiting.popleft()
            if not pending.response.done():
                calls.append(pending)
                size += size_of(pending)
        if calls:
            self._start(calls)

    def _start(self, calls: list[Pending]) -> None:
        self._in_transit += 1
        self._run(self._carry(calls))

    async def _carry(self, calls: list[Pending]) -> None:
        """Until each of the calls has its response or is not awaited any more."""
        task = asyncio.current_task()
        assert task is not None
        exchange = _Exchange(task, calls, len(calls))
        self._exchanges.update(dict.fromkeys(calls, exchange))
        # Also where the stream ends in good order: so does that of a replica that stops between two calls.
        failure: Exception = ReplicaLost()
        try:
            stream = self._exchange.remote([pending.call for pending in calls])
            async for replies in stream:
                self._acknowledged(exchange)
                for number, reply in replies:
                    calls[number].deliver(reply)
        except LOST:
            pass
        except BackPressureError:
            failure = Overloaded("the family has as many requests waiting as it may")
        except asyncio.CancelledError:
            stream.cancel()
            raise
        except Exception as cause:
            failure = cause
        finally:
            self._landed(exchange)
        for pending in calls:
            pending.fail(failure)

    def _acknowledged(self, exchange: _Exchange) -> None:
        if exchange.in_transit:
            self._landed(exchange)
            for pending in exchange.calls:
                pending.arrived = True

    def _landed(self, exchange: _Exchange) -> None:
        if exchange.in_transit:
            exchange.in_transit = False
            self._in_transit -= 1
            self._schedule()

    def _ended(self, pending: Pending) -> None:
        exchange = self._exchanges.pop(pending, None)
        if exchange is None:  # It was never sent.
            return
        exchange.awaited -= 1
        if not pending.response.cancelled():
            return
        if exchange.awaited:
            self._cancel(pending.call.call_id)
        else:
            exchange.task.cancel()  # The end of the stream cancels what the replica still does for it.

    def _cancel(self, call_id: str) -> None:
        if not self._cancelled:
            asyncio.get_running_loop().call_soon(self._broadcast_cancelled)
        self._cancelled.append(call_id)

    def _broadcast_cancelled(self) -> None:
        cancelled, self._cancelled = self._cancelled, []
        self._run(broadcast(self._handle, "cancel", cancelled))

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def size_of(pending: Pending) -> int:
    """About how many bytes a call takes."""
    return sum(map(_bytes_in, vars(pending.call.request).values()))


def _bytes_in(value: object) -> int:
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, list):
        return 8 * len(value) + sum(len(turn.content) for turn in value if isinstance(turn, Message))
    return 0
