"""How requests of one replica share its computing and its memory. Knows neither audio nor models."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar

from deployments.contract.errors import Cancelled


class Turns:
    """One thread computes at a time, in the order in which they ask."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._order: deque[object] = deque()

    def __enter__(self) -> None:
        ticket = object()
        with self._changed:
            self._order.append(ticket)
            self._changed.wait_for(lambda: self._order[0] is ticket)

    def __exit__(self, *failure: object) -> None:
        with self._changed:
            self._order.popleft()
            self._changed.notify_all()


class LongWork:
    """One request's computing in a thread of its own, begun in a turn and going on in many. `over` is set where its
    caller is gone."""

    def __init__(self, turns: Turns) -> None:
        self.over = threading.Event()
        self._turns = turns

    def check(self) -> None:
        """Raises Cancelled where the request is over."""
        if self.over.is_set():
            raise Cancelled("the request is over")

    def pause(self) -> None:
        """Others take their turns. Raises Cancelled where the request is over."""
        self.check()
        self._turns.__exit__()
        self._turns.__enter__()
        self.check()


class Job(Protocol):
    done: bool


Jobs = TypeVar("Jobs", bound=Job)


class Together(Generic[Jobs]):
    """Jobs that take their steps together, at most `most` of them, in a thread that ends when there are none.

    Those that wait begin before the others' next step. Each beginning and each step is a turn. A job whose future is
    cancelled is left out of the next one.
    """

    def __init__(
        self, begin: Callable[[Jobs], object], step: Callable[[Sequence[Jobs]], object], most: int, turns: Turns
    ) -> None:
        self._begin, self._step, self._most, self._turns = begin, step, most, turns
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Jobs, Future[None]]] = deque()
        self._running = False

    def submit(self, job: Jobs) -> Future[None]:
        """Done when the job is; with what `begin` or `step` raised for it alone."""
        future: Future[None] = Future()
        with self._lock:
            self._waiting.append((job, future))
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="together", daemon=True).start()
        return future

    def _run(self) -> None:
        under_way: list[tuple[Jobs, Future[None]]] = []
        while True:
            with self._lock:
                under_way = [(job, future) for job, future in under_way if not future.done()]
                joining = self._waiting.popleft() if self._waiting and len(under_way) < self._most else None
                if joining is None and not under_way:
                    self._running = False
                    return
            with self._turns:
                if joining is None:
                    self._advance(under_way)
                elif not joining[1].cancelled():
                    under_way.append(joining)
                    self._try([joining], lambda: self._begin(joining[0]))  # noqa: B023, called at once

    def _advance(self, under_way: Sequence[tuple[Jobs, "Future[None]"]]) -> None:
        if len(under_way) == 1:
            self._try(under_way, lambda: self._step([job for job, _ in under_way]))
            return
        try:
            self._step([job for job, _ in under_way])
        except Exception:
            for one in under_way:  # whose fault it is
                self._advance([one])
        else:
            self._settle(under_way)

    def _try(self, entries: Sequence[tuple[Jobs, "Future[None]"]], work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as failure:
            for _, future in entries:
                if future.set_running_or_notify_cancel():
                    future.set_exception(failure)
        else:
            self._settle(entries)

    def _settle(self, entries: Sequence[tuple[Jobs, "Future[None]"]]) -> None:
        for job, future in entries:
            if job.done and future.set_running_or_notify_cancel():
                future.set_result(None)


class AudioMemory:
    """What decoded audio may take together. One request alone may take more, and so may files that are longer than was
    expected; the next ones then wait."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.held_bytes = 0
        self._changed = asyncio.Condition()
        self._waiting: deque[object] = deque()

    @asynccontextmanager
    async def reserve(self, expected_bytes: int) -> AsyncIterator["Reservation"]:
        """Waits until so much is free, first come first served."""
        ticket = object()
        async with self._changed:
            self._waiting.append(ticket)
            try:
                await self._changed.wait_for(lambda: self._waiting[0] is ticket and self._fits(expected_bytes))
                self.held_bytes += expected_bytes
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        reservation = Reservation(self, expected_bytes)
        try:
            yield reservation
        finally:
            await reservation.resize(0)

    async def change(self, difference: int) -> None:
        self.held_bytes += difference
        async with self._changed:
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return not self.held_bytes or self.held_bytes + size <= self.budget_bytes


class Reservation:
    """Bytes of an AudioMemory."""

    def __init__(self, memory: AudioMemory, size: int) -> None:
        self._memory = memory
        self._size = size

    async def resize(self, size: int) -> None:
        """To the bytes that the audio takes, now that it is decoded."""
        difference, self._size = size - self._size, size
        await self._memory.change(difference)
