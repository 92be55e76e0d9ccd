"""Admission as a state machine: in any order of events no request is refused while a slot is free."""

import random
from collections import Counter

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from deployments.contract.errors import Overloaded
from serve_app.access.caller import Caller, Priority
from serve_app.dispatch.admission import Slot
from tests.serve_app.dispatch.service import Service


class Machine(RuleBasedStateMachine):
    """Any order of asking, finishing and giving up keeps the promises."""

    def __init__(self) -> None:
        super().__init__()
        self.service = Service(slots=2, queued=8, per_model=6)
        self.waiting: list[Slot] = []

    @rule(
        name=strategies.sampled_from(["", "a", "b", "c"]),
        priority=strategies.sampled_from(Priority),
        remaining_s=strategies.sampled_from([0.01, 1.0, 60.0]),
    )
    def ask(self, name: str, priority: Priority, remaining_s: float) -> None:
        try:
            slot = self.service.ask(Caller(name, priority=priority), remaining_s)
        except Overloaded as refused:
            assert len(self.service.under_way) >= 2 * self.service.replicas, "refused while a slot was free"
            assert refused.retry_after_ms
            return
        if slot.waiting:
            self.waiting.append(slot)

    @precondition(lambda self: self.service.under_way)
    @rule(after_s=strategies.floats(0, 2))
    def finish(self, after_s: float) -> None:
        self.service.finish(after_s=after_s)

    @rule(which=strategies.randoms(use_true_random=False))
    def give_up(self, which: random.Random) -> None:
        waiting = [slot for slot in self.waiting if slot.waiting]
        if waiting:
            cancelled = which.choice(waiting)
            self.service.queue.leave(cancelled)
            self.waiting.remove(cancelled)

    @rule(replicas=strategies.integers(0, 3))
    def scale(self, replicas: int) -> None:
        self.service.replicas = replicas

    @invariant()
    def counts_agree(self) -> None:
        queue = self.service.queue
        waiting = [slot for slot in self.waiting if slot.waiting]
        assert queue.waiting == len(waiting) == self.service.admission.total <= 8
        assert self.service.admission.waiting == Counter(slot.caller.name for slot in waiting)
        assert queue.under_way == len(self.service.under_way)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
