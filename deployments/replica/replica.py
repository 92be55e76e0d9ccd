"""A replica of any family: it answers calls, one by one or many in one exchange, and cancels them."""

import abc
import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from deployments.contract.chunk import Chunk
from deployments.contract.errors import Cancelled
from deployments.contract.failures import error_of
from deployments.contract.types import Error, InferResponse
from deployments.replica.calls import CALLS_UNDER_WAY, Call, OnChunk, Reply, RoutingStats
from deployments.replica.context import cluster_network, private_socket
from deployments.replica.logs import join_serves_log
from deployments.replica.socket_server import ReplicaSocketServer
from deployments.replica.workload import Workload

ACKNOWLEDGE_AFTER_S = 0.005


class Replica(abc.ABC):
    """One replica of a family."""

    def __init__(self) -> None:
        join_serves_log()
        self.workload = Workload()
        self._under_way: dict[str, asyncio.Task[object]] = {}
        path, network = private_socket(), cluster_network()
        self._server = ReplicaSocketServer(self, path, network) if path or network else None

    def __del__(self) -> Coroutine[None, None, None] | None:
        """Serve awaits it when it stops the replica: calls that came by the socket are answered first."""
        server = getattr(self, "_server", None)
        return server.close() if server else None

    @abc.abstractmethod
    async def infer(self, call: Call, on_chunk: OnChunk | None = None) -> InferResponse:
        """The answer to one call; `on_chunk` takes its chunks on the way. What it raises becomes an `Error`. Leaves
        nothing running when cancelled."""

    def counted(self, call: Call) -> AbstractContextManager[None]:
        """Counts the call among the work of the replica, for as long as `infer` runs."""
        return self.workload.job("", 1.0)

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:  # noqa: B027 - a family may have none
        """Called by Serve after the start and with every change that needs no other process. Never raises: Serve would
        end the replica."""

    async def ready(self) -> bool:
        """Whether it can answer."""
        return True

    async def respond(self, call: Call, on_chunk: OnChunk | None) -> InferResponse:
        """The answer to one call. Never raises, not even when its task, which has to be its own, is cancelled."""
        task = asyncio.current_task()
        assert task is not None
        self._under_way[call.call_id] = task
        try:
            with self.counted(call):
                return await self.infer(call, on_chunk)
        except asyncio.CancelledError:
            return Error.of(Cancelled("the request was given up"), call.request_id)
        except Exception as cause:
            return error_of(cause, call.request_id)
        finally:
            del self._under_way[call.call_id]

    async def exchange(self, calls: Sequence[Call]) -> AsyncIterator[list[tuple[int, Reply]]]:
        """The replies to many calls, each with its call's number, as they come. While one list is in transit the next
        gathers.

        An empty list, after a while without a reply, acknowledges that the calls have arrived.
        """
        queue: asyncio.Queue[tuple[int, Reply]] = asyncio.Queue()
        tasks = [asyncio.create_task(self._respond_to(queue, number, call)) for number, call in enumerate(calls)]
        unanswered = len(calls)
        try:
            try:
                async with asyncio.timeout(ACKNOWLEDGE_AFTER_S):
                    replies = [await queue.get()]
            except TimeoutError:
                replies = []
            while True:
                while not queue.empty():
                    replies.append(queue.get_nowait())
                unanswered -= sum(isinstance(reply, InferResponse) for _, reply in replies)
                yield replies
                if not unanswered:
                    return
                replies = [await queue.get()]
        finally:
            for task in tasks:
                task.cancel()

    async def _respond_to(self, queue: "asyncio.Queue[tuple[int, Reply]]", number: int, call: Call) -> None:
        def on_chunk(chunk: Chunk) -> None:
            queue.put_nowait((number, chunk))

        queue.put_nowait((number, await self.respond(call, on_chunk if call.stream else None)))

    async def cancel(self, call_ids: Sequence[str]) -> None:
        """Stop working on these calls, where they are this replica's."""
        for call_id in call_ids:
            if (task := self._under_way.get(call_id)) is not None:
                task.cancel()

    @property
    def address(self) -> tuple[str, int] | None:
        """Where ingresses on other nodes reach it."""
        return self._server.address if self._server else None

    def record_routing_stats(self) -> RoutingStats:
        return RoutingStats(models=[], free=1.0, address=self.address)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For Serve, which counts exchanges, not the calls in them."""
        return {CALLS_UNDER_WAY: float(len(self._under_way))} | self.workload.report()
