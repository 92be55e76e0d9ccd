"""What the ingress asks of any family's replica: to answer many calls in one exchange, and to drop some of them."""

import abc
import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial

from deployments.contract.errors import Cancelled
from deployments.contract.failures import error_of
from deployments.contract.types import Error, InferResponse
from deployments.replica.calls import Call, OnChunk, Reply
from deployments.replica.context import private_socket
from deployments.replica.socket_server import ReplicaSocketServer

ACKNOWLEDGE_AFTER_S = 0.005
CALLS_UNDER_WAY = "calls_under_way"


class Replica(abc.ABC):
    """One replica of a family."""

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Task[None]] = {}
        path = private_socket()
        self._line = ReplicaSocketServer(path, self._answer) if path else None

    def __del__(self) -> Coroutine[None, None, None] | None:
        """Serve awaits it when the replica is to leave: what came over the line is answered first."""
        line = getattr(self, "_line", None)
        return line.close() if line else None

    @abc.abstractmethod
    async def infer(self, call: Call, tell: OnChunk | None = None) -> InferResponse:
        """The answer to one call; `tell` takes its chunks on the way. What it raises becomes an `Error`. Leaves nothing
        running when cancelled."""

    async def ready(self) -> bool:
        """Whether it can answer."""
        return True

    async def exchange(self, calls: Sequence[Call]) -> AsyncIterator[list[tuple[int, Reply]]]:
        """What there is to say of each call, by its number, as it comes. While one list is on its way the next gathers.

        An empty list, after a while without a reply, says that the calls have arrived.
        """
        said: asyncio.Queue[tuple[int, Reply]] = asyncio.Queue()
        tasks = [
            asyncio.create_task(self._answer(call, partial(_say_numbered, said, number)))
            for number, call in enumerate(calls)
        ]
        unanswered = len(calls)
        try:
            try:
                async with asyncio.timeout(ACKNOWLEDGE_AFTER_S):
                    replies = [await said.get()]
            except TimeoutError:
                replies = []
            while True:
                while not said.empty():
                    replies.append(said.get_nowait())
                unanswered -= sum(isinstance(reply, InferResponse) for _, reply in replies)
                yield replies
                if not unanswered:
                    return
                replies = [await said.get()]
        finally:
            for task in tasks:
                task.cancel()

    async def cancel(self, call_ids: Sequence[str]) -> None:
        """Stop working on these calls, where they are this replica's."""
        for call_id in call_ids:
            if (task := self._under_way.get(call_id)) is not None:
                task.cancel()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For Serve, which counts exchanges, not the calls in them."""
        return {CALLS_UNDER_WAY: float(len(self._under_way))}

    async def _answer(self, call: Call, say: Callable[[Reply], None]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._under_way[call.call_id] = task
        answer: InferResponse = Error.of(Cancelled("the request was given up"), call.request_id)
        try:
            answer = await self.infer(call, say if call.stream else None)
        except Exception as cause:
            answer = error_of(cause, call.request_id)
        finally:
            del self._under_way[call.call_id]
            say(answer)


def _say_numbered(said: "asyncio.Queue[tuple[int, Reply]]", number: int, reply: Reply) -> None:
    said.put_nowait((number, reply))
