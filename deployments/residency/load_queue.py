"""Who waits for room, and who gets it next: nobody is held up by another's wait, and nobody waits for ever.

The first in line has a claim on certain models, which nobody behind it may take as soon as their leases end. Whoever
finds room beside that claim passes. After a second without luck the first goes to the end of the line, so that leases
that last hold up no one else.
"""

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from deployments.contract.errors import OutOfMemory
from deployments.residency.ledger import NO_RESERVATION, EvictionScore, Ledger, Reservation

TURN_S = 1.0


class Waiter(Protocol):
    @property
    def size(self) -> int:
        """Bytes that it needs."""


WaiterT = TypeVar("WaiterT", bound=Waiter)


class LoadQueue(Generic[WaiterT]):
    def __init__(self, ledger: Ledger, worth: EvictionScore, clock: Callable[[], float]) -> None:
        self.ledger = ledger
        self.worth = worth
        self.clock = clock
        self._line: deque[WaiterT] = deque()
        self._claim: Reservation | None = None
        self._turn_ends = 0.0

    def __bool__(self) -> bool:
        return bool(self._line)

    def join(self, waiter: WaiterT) -> None:
        self._line.append(waiter)
        if len(self._line) == 1:
            self._next_turn()

    def leave(self, waiter: WaiterT) -> None:
        if waiter in self._line:
            first = self._line[0] is waiter
            self._line.remove(waiter)
            if first:
                self._next_turn()

    def admit(self) -> tuple[WaiterT, list[str] | OutOfMemory] | None:
        """The next who has room, with whom to evict for it, or who never will. It has left the line then."""
        now = self.clock()
        if now >= self._turn_ends:
            self._line.rotate(-1)
            self._next_turn()
        claimed = NO_RESERVATION
        for waiter in self._line:
            victims: list[str] | OutOfMemory | None
            try:
                victims = self.ledger.room_for(waiter.size, now, self.worth, claimed)
            except OutOfMemory as never:
                victims = never
            if victims is not None:
                self.leave(waiter)
                return waiter, victims
            if claimed is NO_RESERVATION:
                claimed = self._claim_of(waiter)
        return None

    def first(self) -> tuple[WaiterT, Reservation]:
        """Whose turn it is, and the models that it waits for."""
        return self._line[0], self._claim_of(self._line[0])

    def wait_s(self) -> float:
        """When to ask again, should nothing happen before."""
        now = self.clock()
        held = [entry.held_until - now for entry in self.ledger.entries.values() if entry.held_until > now]
        return max(1e-3, min([self._turn_ends - now, *held]))

    def _claim_of(self, first: WaiterT) -> Reservation:
        """Made once a turn, and again where one of its models has left."""
        if self._claim is None or not self._claim.names <= self.ledger.entries.keys():
            self._claim = self.ledger.claim(first.size, self.worth)
        return self._claim

    def _next_turn(self) -> None:
        self._claim = None
        self._turn_ends = self.clock() + TURN_S
