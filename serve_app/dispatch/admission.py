"""Which requests may go to a model's replicas now, which wait, and which are refused. A clock and counters; no Ray.

A model has so many slots. Who comes while one is free goes at once; who does not, waits: higher priorities first,
within one in turns between the callers, within a caller in order. A request is refused at once, never later, where the
queue is full, and where by the rate at which it has been draining the wait would be too long: beyond the request's
deadline, or longer than what is under way takes. So overload costs those who are let in at most twice the time. Nothing
is ever refused while a slot is free.
"""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from deployments.contract.errors import DeadlineExceeded, Overloaded
from deployments.contract.settings import FamilySettings
from serve_app.access.caller import Caller, Priority

MEMORY_S = 2.0
"""The drain rate is that of so much busy time."""
FORGET_AFTER_S = 10.0
FEW = 4
BRIEF_S = 0.25
"""A wait that is always worth it."""
STANDING = 0.6
"""A longer one is, as long as no more wait than this share of the slots."""
UNKNOWN_RETRY_MS = 1000
IDLE_GATES = 256
"""With so many gates those that nobody uses go."""

Clock = Callable[[], float]


class Ticket:
    """One request's place. `start` is called once, when its turn comes; perhaps before `enter` returns."""

    __slots__ = ("caller", "start", "waiting")

    def __init__(self, caller: Caller, start: Callable[[], None]) -> None:
        self.caller = caller
        self.start = start
        self.waiting = False


class Admission:
    """One family's gates, and what they hold together. `replicas` tells how many there are."""

    def __init__(self, settings: FamilySettings, replicas: Callable[[], int], clock: Clock = time.monotonic) -> None:
        self.settings = settings
        self.replicas = replicas
        self.clock = clock
        self.waiting: Counter[str] = Counter()
        """How many wait, by caller."""
        self.total = 0
        self._gates: dict[str, Gate] = {}

    def gate(self, model: str) -> "Gate":
        gate = self._gates.get(model)
        if gate is None:
            if len(self._gates) >= IDLE_GATES:
                self._gates = {name: gate for name, gate in self._gates.items() if not gate.idle}
            gate = self._gates[model] = Gate(self)
        return gate

    def is_full_for(self, caller: Caller) -> bool:
        """Whether the family's queue is full for this caller. Named callers leave as much free as they take."""
        left = self.settings.max_queued_requests - self.total
        return left <= 0 or (bool(caller.name) and self.waiting[caller.name] >= left)

    def wait(self, caller: Caller, by: int) -> None:
        self.total += by
        self.waiting[caller.name] += by
        if not self.waiting[caller.name]:
            del self.waiting[caller.name]


class Gate:
    """One model's slots and queue."""

    def __init__(self, family: Admission) -> None:
        self.family = family
        self.under_way = 0
        self.waiting = 0
        self.drain = DrainRate()
        self._queues = {priority: FairQueue() for priority in Priority}

    @property
    def idle(self) -> bool:
        return not self.under_way and not self.waiting

    @property
    def slots(self) -> int:
        # One replica's worth where there is none: it is the waiting calls that bring one.
        return self.family.settings.max_ongoing_requests * max(self.family.replicas(), 1)

    def enter(self, caller: Caller, remaining_s: float, start: Callable[[], None]) -> Ticket:
        """Raises Overloaded where it may neither go nor wait, DeadlineExceeded where there is no time left."""
        if remaining_s <= 0:
            raise DeadlineExceeded("the deadline had passed before the request could be sent")
        ticket = Ticket(caller, start)
        if self.waiting:
            self._fill()  # There may be more replicas by now.
        if not self.waiting and self.under_way < self.slots:
            self.under_way += 1
            start()
            return ticket
        self._refuse_hopeless(caller, remaining_s)
        if not self.waiting:
            self.drain.begin(self.family.clock())
        self._queues[caller.priority].push(ticket)
        self._wait(ticket, True)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The request has its answer, or nobody waits for it any more. Once for each ticket."""
        if ticket.waiting:
            self._queues[ticket.caller.priority].remove(ticket)
            self._wait(ticket, False)
            return
        self.under_way -= 1
        if self.waiting:
            self.drain.count(self.family.clock())
            self._fill()

    def _fill(self) -> None:
        slots = self.slots
        while self.waiting and self.under_way < slots:
            ticket = next(queue for queue in self._queues.values() if len(queue)).pop()
            self._wait(ticket, False)
            self.under_way += 1
            ticket.start()

    def _wait(self, ticket: Ticket, waiting: bool) -> None:
        ticket.waiting = waiting
        by = 1 if waiting else -1
        self.waiting += by
        self.family.wait(ticket.caller, by)

    def _refuse_hopeless(self, caller: Caller, remaining_s: float) -> None:
        settings = self.family.settings
        ahead = sum(len(queue) for priority, queue in self._queues.items() if priority < caller.priority)
        ahead += self._queues[caller.priority].ahead_of(caller)
        rate = self.drain.rate(self.family.clock())
        wait_s = (ahead + 1) / rate if rate else 0.0
        if ahead >= settings.max_queued_per_model or self.family.is_full_for(caller):
            reason = "as many requests wait as may"
        elif wait_s > remaining_s:
            reason = "the request would wait beyond its deadline"
        elif wait_s > BRIEF_S and ahead >= STANDING * self.slots:
            reason = "more requests come than can be answered"
        else:
            return
        refused = Overloaded(reason)
        refused.retry_after_ms = math.ceil(wait_s * 1000) or UNKNOWN_RETRY_MS
        raise refused


class FairQueue:
    """Turns between callers, `share` requests a turn; each caller's own in order. Everything in constant time."""

    def __init__(self) -> None:
        self._callers: OrderedDict[str, OrderedDict[Ticket, None]] = OrderedDict()  # the first has the turn
        self._length = 0
        self._taken: tuple[str, int] = ("", 0)  # who had the last turn, and how much of it is used up

    def __len__(self) -> int:
        return self._length

    def push(self, ticket: Ticket) -> None:
        self._callers.setdefault(ticket.caller.name, OrderedDict())[ticket] = None
        self._length += 1

    def pop(self) -> Ticket:
        name, tickets = next(iter(self._callers.items()))
        ticket, _ = tickets.popitem(last=False)
        self._length -= 1
        taken = self._taken[1] + 1 if self._taken[0] == name else 1
        if not tickets:
            del self._callers[name]
        elif taken >= ticket.caller.share:
            self._callers.move_to_end(name)
            taken = 0
        self._taken = (name, taken)
        return ticket

    def remove(self, ticket: Ticket) -> None:
        tickets = self._callers[ticket.caller.name]
        del tickets[ticket]
        self._length -= 1
        if not tickets:
            del self._callers[ticket.caller.name]

    def ahead_of(self, caller: Caller) -> int:
        """How many will go before one that this caller adds now, about: its own, and the others' turns meanwhile."""
        own = len(self._callers.get(caller.name, ()))
        turns = own // caller.share + 1
        return min(self._length, own + turns * (len(self._callers) - bool(own)))


class DrainRate:
    """Requests a second that leave while others wait, over the last seconds of such time."""

    def __init__(self) -> None:
        self._count = 0.0
        self._time_s = 0.0
        self._last = -math.inf

    def begin(self, now: float) -> None:
        """The queue was empty and is not any more."""
        if now - self._last > FORGET_AFTER_S:
            self._count = self._time_s = 0.0
        self._last = now

    def count(self, now: float) -> None:
        passed = now - self._last
        kept = math.exp(-passed / MEMORY_S)
        self._count = self._count * kept + 1
        self._time_s = self._time_s * kept + passed
        self._last = now

    def rate(self, now: float) -> float | None:
        """None while too few have left to tell. Falls while none leaves."""
        time_s = self._time_s + max(now - self._last, 0.0)
        return self._count / time_s if self._count >= FEW and time_s > 0 else None
