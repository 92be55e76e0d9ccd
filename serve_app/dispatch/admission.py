"""Which requests may go to a model's replicas now, which wait, and which are refused. A clock and counters; no Ray.

A model has so many slots. A request takes a free slot at once; where none is free, it waits: higher priorities first,
within one priority in turns between the callers, within a caller in order. A request is refused at once, never later,
where the queue is full, and where by the rate at which the queue drains the wait would be too long: beyond the
request's deadline, or longer than the requests under way take. So overload costs those that are admitted at most twice
the time. Nothing is refused while a slot is free, and no request for a long wait alone while further replicas may come,
or those that came since the queue began have yet to catch up.
"""

import asyncio
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from types import TracebackType

from deployments.contract.errors import DeadlineExceeded, Overloaded
from deployments.contract.settings import FamilySettings
from deployments.contract.types import InferRequest
from serve_app.access.caller import Caller, Priority
from serve_app.dispatch.pending import Pending

MEMORY_S = 2.0
"""The drain rate is that of so much busy time: shorter follows a change sooner, longer is steadier."""
FORGET_AFTER_S = 10.0
"""After so long without a queue the rate of the last one is forgotten."""
FEW = 4
"""With fewer requests than these no rate is known."""
BRIEF_S = 0.25
"""A shorter wait is never refused."""
STANDING = 0.6
"""A longer one is accepted while no more requests wait than this share of the slots."""
GROWS_WITHIN_S = 60.0
"""So long a queue may stand before it is taken that no further replica is coming, and that those that came do not
suffice."""
UNKNOWN_RETRY_MS = 1000
MANY_QUEUES = 256
"""From so many queues on, those that are empty are deleted before another is made."""

Clock = Callable[[], float]


class Slot:
    """One request's slot, from entering to leaving it. Entering waits while none is free, and only then costs a future
    and a timer."""

    __slots__ = ("_queue", "_turn", "caller", "remaining_s", "request", "waiting")

    def __init__(self, queue: "ModelQueue", caller: Caller, remaining_s: float, request: InferRequest) -> None:
        self.caller = caller
        self.request = request
        self.remaining_s = remaining_s
        self.waiting = False
        self._queue = queue
        self._turn: asyncio.Future[None] | None = None

    async def __aenter__(self) -> None:
        """Raises Overloaded where the request may not wait either, DeadlineExceeded where its time is over."""
        self._queue.enter(self)
        if not self.waiting:
            return
        self._turn = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self.remaining_s):
                await self._turn
        except TimeoutError:
            self._queue.leave(self)
            raise DeadlineExceeded("no answer within the deadline") from None
        except asyncio.CancelledError:
            self._queue.leave(self)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._queue.leave(self)

    def begin(self) -> None:
        """Its turn has come."""
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)


class Admission:
    """One family's queues, and what they hold together. `replicas` counts its replicas; `work` is that of its row."""

    def __init__(
        self,
        settings: FamilySettings,
        replicas: Callable[[], int],
        clock: Clock = time.monotonic,
        work: Callable[[InferRequest], float] = lambda request: 1.0,
    ) -> None:
        self.settings = settings
        self.replicas = replicas
        self.clock = clock
        self.work = work
        self.waiting_units = 0.0
        """How much work waits."""
        self.waiting: Counter[str] = Counter()
        """How many wait, by caller."""
        self.total = 0
        self._queues: dict[str, ModelQueue] = {}

    def slot(self, call: Pending) -> Slot:
        return Slot(self.queue(call.model), call.caller, call.call.timeout_s, call.call.request)

    def queue(self, model: str) -> "ModelQueue":
        queue = self._queues.get(model)
        if queue is None:
            if len(self._queues) >= MANY_QUEUES:
                self._queues = {name: queue for name, queue in self._queues.items() if not queue.idle}
            queue = self._queues[model] = ModelQueue(self)
        return queue

    def is_full_for(self, caller: Caller) -> bool:
        """Whether the family's queue is full for this caller. Named callers leave as much free as they take."""
        left = self.settings.max_queued_requests - self.total
        return left <= 0 or (bool(caller.name) and self.waiting[caller.name] >= left)

    def count(self, slot: Slot, by: int) -> None:
        self.total += by
        self.waiting_units = self.waiting_units + by * self.work(slot.request) if self.total else 0.0
        self.waiting[slot.caller.name] += by
        if not self.waiting[slot.caller.name]:
            del self.waiting[slot.caller.name]


class ModelQueue:
    """One model's slots, and the requests that wait for one."""

    def __init__(self, family: Admission) -> None:
        self.family = family
        self.under_way = 0
        self.waiting = 0
        self.drain = DrainRate()
        self._waiting_since = math.inf
        self._began_with = 0
        """How many replicas there were then."""
        self._queues = {priority: FairQueue() for priority in Priority}

    @property
    def idle(self) -> bool:
        return not self.under_way and not self.waiting

    @property
    def slots(self) -> int:
        # One replica's worth where there is none: it is waiting calls that make Serve start one.
        return self.family.settings.max_ongoing_requests * max(self.family.replicas(), 1)

    def enter(self, slot: Slot) -> None:
        """Takes a slot, or waits: `slot.waiting`. Raises Overloaded and DeadlineExceeded."""
        if slot.remaining_s <= 0:
            raise DeadlineExceeded("the deadline had passed before the request could be sent")
        if self.waiting:
            self._fill()  # There may be more replicas than when the last one left.
        if not self.waiting and self.under_way < self.slots:
            self.under_way += 1
            return
        self._refuse_hopeless(slot.caller, slot.remaining_s)
        if not self.waiting:
            self._waiting_since, self._began_with = self.family.clock(), self.family.replicas()
            self.drain.begin(self._waiting_since)
        self._queues[slot.caller.priority].push(slot)
        self._set_waiting(slot, True)

    def leave(self, slot: Slot) -> None:
        """The request has its answer, or nobody waits for it any more. Once for each that entered."""
        if slot.waiting:
            self._queues[slot.caller.priority].remove(slot)
            self._set_waiting(slot, False)
            return
        self.under_way -= 1
        if self.waiting:
            self.drain.count(self.family.clock())
            self._fill()

    def _may_grow(self) -> bool:
        """Whether replicas may be on their way, or came after the queue: it is queues that Serve adds them for."""
        fewer = min(self._began_with, self.family.replicas()) < self.family.settings.autoscaling.max_replicas
        return fewer and self.family.clock() - self._waiting_since < GROWS_WITHIN_S

    def _fill(self) -> None:
        slots = self.slots
        while self.waiting and self.under_way < slots:
            slot = next(queue for queue in self._queues.values() if len(queue)).pop()
            self._set_waiting(slot, False)
            self.under_way += 1
            slot.begin()

    def _set_waiting(self, slot: Slot, waiting: bool) -> None:
        slot.waiting = waiting
        by = 1 if waiting else -1
        self.waiting += by
        self.family.count(slot, by)

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
        elif wait_s > BRIEF_S and ahead >= STANDING * self.slots and not self._may_grow():
            reason = "more requests come than can be answered"
        else:
            return
        refused = Overloaded(reason)
        refused.retry_after_ms = math.ceil(wait_s * 1000) or UNKNOWN_RETRY_MS
        raise refused


class FairQueue:
    """Callers take turns, `share` requests a turn; each caller's own go in order. Everything in constant time."""

    def __init__(self) -> None:
        self._callers: OrderedDict[str, OrderedDict[Slot, None]] = OrderedDict()  # the turn is the first one's
        self._length = 0
        self._taken: tuple[str, int] = ("", 0)  # who had the last turn, and how many requests of it are used

    def __len__(self) -> int:
        return self._length

    def push(self, slot: Slot) -> None:
        self._callers.setdefault(slot.caller.name, OrderedDict())[slot] = None
        self._length += 1

    def pop(self) -> Slot:
        name, slots = next(iter(self._callers.items()))
        slot, _ = slots.popitem(last=False)
        self._length -= 1
        taken = self._taken[1] + 1 if self._taken[0] == name else 1
        if not slots:
            del self._callers[name]
        elif taken >= slot.caller.share:
            self._callers.move_to_end(name)
            taken = 0
        self._taken = (name, taken)
        return slot

    def remove(self, slot: Slot) -> None:
        slots = self._callers[slot.caller.name]
        del slots[slot]
        self._length -= 1
        if not slots:
            del self._callers[slot.caller.name]

    def ahead_of(self, caller: Caller) -> int:
        """About how many go before one that this caller adds now: its own, and the others' turns meanwhile."""
        own = len(self._callers.get(caller.name, ()))
        turns = own // caller.share + 1
        return min(self._length, own + turns * (len(self._callers) - bool(own)))


class DrainRate:
    """Requests a second that end while others wait, over the last seconds of such time."""

    def __init__(self) -> None:
        self._count = 0.0
        self._time_s = 0.0
        self._last = -math.inf

    def begin(self, now: float) -> None:
        """The queue, empty until now, gets its first request."""
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
        """None while too few have ended for an estimate. Falls while none ends."""
        time_s = self._time_s + max(now - self._last, 0.0)
        return self._count / time_s if self._count >= FEW and time_s > 0 else None
