"""A replica of any family: it answers calls, one by one or many in one exchange, cancels them, counts their work."""

import abc
import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from deployments.contract.chunk import Chunk
from deployments.contract.errors import Cancelled
from deployments.contract.failures import error_of
from deployments.contract.types import Error, InferResponse
from deployments.metrics.meter import COMPUTE, PREPROCESS, Instrument, Meter
from deployments.replica.calls import (
    BUSY,
    CALLS_QUEUED,
    CALLS_UNDER_WAY,
    PACE,
    QUEUED_S,
    Call,
    Holdings,
    News,
    OnChunk,
    OnNews,
    Progress,
    Reply,
    RoutingStats,
    Stations,
    stations,
)
from deployments.replica.context import alone_file, cluster_network, crash_file, private_socket
from deployments.replica.logs import join_serves_log
from deployments.replica.socket_server import ReplicaSocketServer
from deployments.system.cpu import answer_at_once
from deployments.system.crash_report import report_crashes_to
from deployments.system.shared_lock import SharedLock

ACKNOWLEDGE_AFTER_S = 0.005
DELIVERED_S = 0.05
"""A call is computed alone after so long: what the replica has written until then arrives before. Not measured."""
KEPT = 1 - 1 / 32
"""Of what was measured before, at each answer: the pace is that of about the last 32."""


class Replica(abc.ABC):
    """One replica of a family."""

    def __init__(self) -> None:
        join_serves_log()
        answer_at_once()
        self.workload = Workload()
        if crashes := crash_file():
            report_crashes_to(crashes)
        self._under_way: dict[str, asyncio.Task[object]] = {}
        self._lock = SharedLock()
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
        return self.workload.job("", call.request)

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:  # noqa: B027 - a family may have none
        """Called by Serve after the start and with every change that needs no other process. Never raises: Serve would
        end the replica."""

    async def ready(self) -> bool:
        """Whether it can answer."""
        return True

    async def respond(self, call: Call, on_chunk: OnChunk | None, on_news: OnNews = lambda news: None) -> InferResponse:
        """The answer to one call. Never raises, not even when its task, which has to be its own, is cancelled."""
        task = asyncio.current_task()
        assert task is not None
        self._under_way[call.call_id] = task
        stations.set(passed := Stations())
        try:
            if call.alone:
                on_news(Progress.HELD)
                async with self._lock.held_exclusively():
                    on_news(Progress.ALONE)
                    await asyncio.sleep(DELIVERED_S)
                    with self.counted(call), _marked(call):
                        return await self.infer(call, on_chunk)
            if self._lock.exclusive:
                on_news(Progress.HELD)
                await self._lock.wait_until_shared()
                on_news(Progress.SENT)
            self._lock.shared += 1
            try:
                with self.counted(call):
                    return await self.infer(call, on_chunk)
            finally:
                self._lock.shared -= 1
                if self._lock.exclusive:
                    self._lock.shared_released()
        except asyncio.CancelledError:
            return Error.of(Cancelled("the request was given up"), call.request_id)
        except Exception as cause:
            return error_of(cause, call.request_id)
        finally:
            del self._under_way[call.call_id]
            if passed:
                on_news(passed)

    async def exchange(self, calls: Sequence[Call]) -> AsyncIterator[list[tuple[int, Reply | News]]]:
        """The replies to many calls, each with its call's number, as they come. While one list is in transit the next
        gathers.

        An empty list, after a while without a reply, acknowledges that the calls have arrived.
        """
        queue: asyncio.Queue[tuple[int, Reply | News]] = asyncio.Queue()
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

    async def _respond_to(self, queue: "asyncio.Queue[tuple[int, Reply | News]]", number: int, call: Call) -> None:
        def deliver(news: Chunk | News) -> None:
            queue.put_nowait((number, news))

        queue.put_nowait((number, await self.respond(call, deliver if call.stream else None, deliver)))

    async def cancel(self, call_ids: Sequence[str]) -> None:
        """Stop working on these calls, where they are this replica's."""
        for call_id in call_ids:
            if (task := self._under_way.get(call_id)) is not None:
                task.cancel()

    def record_routing_stats(self) -> RoutingStats:
        return RoutingStats(address=self._server.address if self._server else None)

    def holdings(self) -> Holdings:
        return Holdings()

    def report_holdings(self) -> None:
        """What it holds may have changed."""
        if self._server is not None:
            self._server.report_holdings()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For Serve, which counts exchanges, not the calls in them."""
        return {CALLS_UNDER_WAY: float(len(self._under_way))} | self.workload.report()


@dataclass(slots=True, eq=False)
class _Job:
    model: str
    request: object
    began: float = 0.0


@dataclass(slots=True)
class _Pace:
    seconds: float = 0.0
    units: float = 0.0

    def add(self, seconds: float, units: float) -> None:
        self.seconds = self.seconds * KEPT + seconds
        self.units = self.units * KEPT + units

    @property
    def per_unit(self) -> float:
        return self.seconds / self.units if self.units else 0.0


class Workload:
    """How many seconds of work wait in a replica: the sizes of its calls, by the pace at which it answered others.

    It works on `side_by_side` calls at a time, first come first served. `work` gives the size of a request; the pace,
    seconds for a unit, is measured for each model: the replica's time is divided among the calls that it works on side
    by side. A size is asked for where a call waits, or has its answer: never before it is computed.
    """

    def __init__(
        self,
        side_by_side: int = 1,
        clock: Callable[[], float] = time.monotonic,
        work: Callable[[Any], float] = lambda request: 1.0,
    ) -> None:
        self.side_by_side = side_by_side
        self.work = work
        self._clock = clock
        self._working: set[_Job] = set()
        self._queued: dict[_Job, None] = {}
        self._paces: dict[str, _Pace] = {}
        self._all = _Pace()
        self._at = self._reported_at = clock()
        self._share_s = 0.0
        """The time that a call would have had that was worked on all along."""
        self._busy_s = 0.0
        """Since the last report, of what `side_by_side` calls would take."""

    @contextmanager
    def job(self, model: str, request: object) -> Iterator[None]:
        """The block is one call. What raises is not measured."""
        job = _Job(model, request)
        self._pass_time()
        self._queued[job] = None
        self._begin()
        try:
            yield
            self._pass_time()
            seconds, units = self._share_s - job.began if job in self._working else 0.0, self.work(request)
            self._paces.setdefault(model, _Pace()).add(seconds, units)
            self._all.add(seconds, units)
        finally:
            self._pass_time()
            self._working.discard(job)
            self._queued.pop(job, None)
            self._begin()

    def report(self) -> dict[str, float]:
        """What waits, and the pace of all models, 0 while it is unknown; of the time since the last report, the share
        that was used."""
        self._pass_time()
        passed_s = self._at - self._reported_at
        busy = self._busy_s / passed_s if passed_s else 0.0
        self._busy_s, self._reported_at = 0.0, self._at
        queued_s = sum(self.work(job.request) * self._paces.get(job.model, self._all).per_unit for job in self._queued)
        return {QUEUED_S: queued_s, CALLS_QUEUED: float(len(self._queued)), PACE: self._all.per_unit, BUSY: busy}

    def _begin(self) -> None:
        while self._queued and len(self._working) < self.side_by_side:
            job = next(iter(self._queued))
            del self._queued[job]
            job.began = self._share_s
            self._working.add(job)

    def _pass_time(self) -> None:
        now = self._clock()
        if self._working:
            self._share_s += (now - self._at) / len(self._working)
            self._busy_s += (now - self._at) * len(self._working) / self.side_by_side
        self._at = now


@contextmanager
def _marked(call: Call) -> Iterator[None]:
    """A file marks the call as being computed: if it ends this process, no message may reach the ingress any more."""
    mark = alone_file(call.call_id)
    if mark:
        mark.touch(mode=0o600)
    try:
        yield
    finally:
        if mark:
            mark.unlink(missing_ok=True)


def note(station: Literal["load_s", "preprocess_s", "first_token_s", "compute_s"], seconds: float) -> None:
    """Of the task's call, where it is for one."""
    if (passed := stations.get()) is not None:
        passed[station] = seconds


def note_together(count: int) -> None:
    """How many requests its forwards computed, of them the most."""
    if (passed := stations.get()) is not None:
        passed["batch_size"] = count


@contextmanager
def timed(meter: Meter, instrument: Instrument, model: str, family: str) -> Iterator[None]:
    """Observes how long the block took, unless it fails; it may be a station of the task's call."""
    started = time.perf_counter()
    yield
    seconds = time.perf_counter() - started
    meter.observe(instrument, seconds, model, family)
    if instrument is COMPUTE:
        note("compute_s", seconds)
    elif instrument is PREPROCESS:
        note("preprocess_s", seconds)
