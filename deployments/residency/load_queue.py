"""The order in which models that wait for memory are loaded. Knows the ledger, but no engines and no threads.

First come, first served, with backfilling: the first request reserves the models and the free bytes that it waits for,
and a later request passes if it fits beside that reservation. Without the reservation small requests would take every
byte that becomes free, and a large one would wait without end. A reservation lasts one turn; then its request goes to
the end of the queue, so that leases which do not end block no one else.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from deployments.contract.errors import OutOfMemory
from deployments.repository.model import Model
from deployments.residency.ledger import NOTHING_RESERVED, EvictionScore, HeadReservation, Ledger

TURN_S = 1.0
"""A longer turn collects memory for a large model out of longer leases; a shorter one frees others from its reservation
sooner. Not measured: it is the lease time that a model without history is assumed to have."""
MIN_WAIT_S = 1e-3


@dataclass(eq=False)
class LoadRequest:
    """A model that is to be loaded and needs `size` bytes."""

    model: Model
    size: int
    granted: "asyncio.Future[None]"
    """Done once the memory is reserved, or can never be (OutOfMemory). Cancelled where nobody waits any more."""
    queued_at: float | None = None


class LoadQueue:
    """Requests that wait for memory, in the order in which they get it."""

    def __init__(self, ledger: Ledger, score: EvictionScore, clock: Callable[[], float]) -> None:
        self.ledger = ledger
        self.score = score
        self.clock = clock
        self._requests: deque[LoadRequest] = deque()
        self._reservation: HeadReservation | None = None
        self._turn_ends = 0.0

    def __bool__(self) -> bool:
        return bool(self._requests)

    def append(self, request: LoadRequest) -> None:
        request.queued_at = self.clock()
        self._requests.append(request)
        if len(self._requests) == 1:
            self._begin_turn()

    def remove(self, request: LoadRequest) -> None:
        """Does nothing where it is not in the queue."""
        if request in self._requests:
            was_head = self._requests[0] is request
            self._requests.remove(request)
            if was_head:
                self._begin_turn()

    def pop_next(self) -> tuple[LoadRequest, list[str] | OutOfMemory] | None:
        """The next request whose memory can be reserved now, and the models to evict for it.

        Instead of the models, the error of a request that can never fit. None while all have to wait.
        """
        now = self.clock()
        if now >= self._turn_ends:
            self._requests.rotate(-1)
            self._begin_turn()
        reserved = NOTHING_RESERVED
        for request in self._requests:
            outcome: list[str] | OutOfMemory | None
            try:
                outcome = self.ledger.victims_for(request.size, now, self.score, reserved)
            except OutOfMemory as never:
                outcome = never
            if outcome is not None:
                self.remove(request)
                return request, outcome
            if reserved is NOTHING_RESERVED:  # This one is the head; those behind it must fit beside its reservation.
                reserved = self._reservation_of(request)
        return None

    def head(self) -> tuple[LoadRequest, HeadReservation]:
        """The request whose turn it is, and what it waits for."""
        return self._requests[0], self._reservation_of(self._requests[0])

    def seconds_to_next_check(self) -> float:
        """When `pop_next` may give another answer although no lease and no unload has ended."""
        now = self.clock()
        protections = [entry.protected_until - now for entry in self.ledger.entries.values()]
        return max(MIN_WAIT_S, min([self._turn_ends - now, *(left_s for left_s in protections if left_s > 0)]))

    def _reservation_of(self, head: LoadRequest) -> HeadReservation:
        """Computed once a turn, so that it does not move with every lease; again where a reserved model is gone."""
        if self._reservation is None or not self._reservation.names <= self.ledger.entries.keys():
            self._reservation = self.ledger.reservation_for(head.size, self.score)
        return self._reservation

    def _begin_turn(self) -> None:
        self._reservation = None
        self._turn_ends = self.clock() + TURN_S
