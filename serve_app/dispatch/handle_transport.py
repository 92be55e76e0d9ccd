"""Requests for one model on their way to its replicas: whatever waits at the same moment shares one handle call.

At most one exchange of a lane is in transit, that is, sent and not yet heard of. What comes meanwhile gathers and goes
with the next one. So a lone request never waits, and the busier the way, the fuller the calls.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

from deployments.contract.errors import Overloaded, Unavailable
from deployments.contract.types import InferResponse
from serve_app.dispatch.pending import Pending

logger = logging.getLogger("model_runtime.dispatch")

LOST = (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError)
CALLS_TOGETHER = 64
BYTES_TOGETHER = 4 << 20

CancelCalls = Callable[[Sequence[str]], Coroutine[Any, Any, None]]


class HandleTransport:
    """`exchange` is the handle's method, `cancel` reaches every replica with the ids of calls nobody waits for."""

    def __init__(self, exchange: Any, cancel: CancelCalls) -> None:
        self._exchange = exchange
        self._cancel = cancel
        self._waiting: deque[Pending] = deque()
        self._in_transit = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._dropped: list[str] = []

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._tasks

    def submit(self, pending: Pending) -> None:
        pending.submitted = True
        self._waiting.append(pending)
        self._schedule()

    def _schedule(self) -> None:
        """Sends at the end of this turn of the loop, together with what else comes within it."""
        if not self._scheduled and not self._in_transit:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._scheduled = False
        together: list[Pending] = []
        size = 0
        while self._waiting and len(together) < CALLS_TOGETHER and size < BYTES_TOGETHER:
            pending = self._waiting.popleft()
            if not pending.response.done():
                together.append(pending)
                size += pending.size
        if together:
            self._start(together)

    def _start(self, together: list[Pending]) -> None:
        self._in_transit += 1
        task = asyncio.create_task(self._carry(together))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, together: list[Pending]) -> None:
        """One exchange, until each of its calls has its answer or is not waited for any more."""
        in_transit = True
        left = len(together)
        task = asyncio.current_task()
        assert task is not None

        def ended(response: "asyncio.Future[InferResponse]") -> None:
            nonlocal left
            left -= 1
            if response.cancelled():
                if left:
                    self._drop(next(pending for pending in together if pending.response is response))
                else:
                    task.cancel()  # Nobody waits any more; the end of the stream tells the replica.

        def landed() -> None:
            nonlocal in_transit
            if in_transit:
                in_transit = False
                self._in_transit -= 1
                self._schedule()

        for pending in together:
            pending.response.add_done_callback(ended)
        stream = self._exchange.remote([pending.to_send() for pending in together])
        try:
            async for replies in stream:
                if in_transit:
                    landed()
                    for pending in together:
                        pending.arrived = True
                for number, reply in replies:
                    together[number].hear(reply)
        except LOST:
            self.retry(together)
        except BackPressureError:
            for pending in together:
                pending.fail(Overloaded("the family has as many requests waiting as it may"))
        except asyncio.CancelledError:
            stream.cancel()
            raise
        except Exception as cause:
            for pending in together:
                pending.fail(cause)
        else:
            # A replica that stops between two calls ends its streams in good order.
            self.retry(together)
        finally:
            landed()

    def retry(self, lost: Sequence[Pending]) -> None:
        """Each that has no answer is sent once more, alone, so that none can take others along."""
        for pending in lost:
            if pending.response.done():
                continue
            logger.warning("request %s: its replica was lost", pending.call.request_id)
            if pending.lost:
                pending.fail(Unavailable("the replica was lost, twice"))
                continue
            pending.again()
            self._start([pending])

    def _drop(self, pending: Pending) -> None:
        if not self._dropped:
            asyncio.get_running_loop().call_soon(self._tell_dropped)
        self._dropped.append(pending.call.call_id)

    def _tell_dropped(self) -> None:
        dropped, self._dropped = self._dropped, []
        task = asyncio.create_task(self._cancel(dropped))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
