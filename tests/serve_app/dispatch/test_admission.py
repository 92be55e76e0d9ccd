"""Admission as a state machine: slots, turns, refusals. Time is a number that the tests move."""

import random
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from deployments.contract.errors import DeadlineExceeded, Overloaded
from deployments.contract.settings import FamilySettings
from serve_app.access.caller import ANONYMOUS, Caller, Priority
from serve_app.dispatch.admission import Admission, Gate, Ticket


@dataclass
class Service:
    """A model's gate, and what was sent through it in order."""

    slots: int = 4
    queue: int = 1000
    per_model: int = 1000
    replicas: int = 1
    now: float = 0.0
    sent: list[Ticket] = field(default_factory=list)
    under_way: list[Ticket] = field(default_factory=list)

    def __post_init__(self) -> None:
        limits = FamilySettings(
            max_ongoing_requests=self.slots, max_queued_requests=self.queue, max_queued_per_model=self.per_model
        )
        self.admission = Admission(limits, lambda: self.replicas, lambda: self.now)
        self.gate = self.admission.gate("m")

    def ask(self, caller: Caller = ANONYMOUS, remaining_s: float = 60, gate: Gate | None = None) -> Ticket:
        went: list[bool] = []

        def start() -> None:
            went.append(True)
            if tickets:
                self.send(tickets[0])

        tickets: list[Ticket] = []
        tickets.append((gate or self.gate).enter(caller, remaining_s, start))
        if went:
            self.send(tickets[0])
        return tickets[0]

    def send(self, ticket: Ticket) -> None:
        self.sent.append(ticket)
        self.under_way.append(ticket)

    def finish(self, count: int = 1, after_s: float = 0.0) -> None:
        self.now += after_s
        for _ in range(count):
            self.gate.leave(self.under_way.pop(0))

    def waits(self) -> int:
        return self.gate.waiting


def test_a_lone_request_goes_at_once() -> None:
    service = Service()
    ticket = service.ask()
    assert service.sent == [ticket]
    assert not ticket.waiting


def test_no_more_than_the_slots_of_all_replicas_are_under_way() -> None:
    service = Service(slots=4, replicas=2)
    for _ in range(20):
        service.ask()
    assert len(service.under_way) == 8
    service.finish(3)
    assert len(service.under_way) == 8
    assert service.waits() == 9


def test_slots_of_a_new_replica_are_used_at_once() -> None:
    service = Service(slots=4)
    for _ in range(6):
        service.ask()
    service.replicas = 2
    service.ask()
    assert len(service.under_way) == 7
    assert service.waits() == 0


def test_who_waits_goes_in_order() -> None:
    service = Service(slots=1)
    tickets = [service.ask() for _ in range(5)]
    service.finish(), service.finish(), service.finish(), service.finish()
    assert service.sent == tickets


def test_callers_take_turns_however_much_one_of_them_asks() -> None:
    service = Service(slots=1)
    service.ask()
    for _ in range(100):
        service.ask(Caller("greedy"))
    for _ in range(5):
        service.ask(Caller("modest"))
    service.finish()
    for _ in range(10):
        service.finish()
    assert Counter(ticket.caller.name for ticket in service.sent[1:11]) == {"greedy": 5, "modest": 5}


def test_a_larger_share_gets_more_turns() -> None:
    service = Service(slots=1)
    service.ask()
    for _ in range(40):
        service.ask(Caller("large", share=3))
        service.ask(Caller("small"))
    for _ in range(20):
        service.finish()
    assert Counter(ticket.caller.name for ticket in service.sent[1:21]) == {"large": 15, "small": 5}


def test_a_higher_priority_goes_first() -> None:
    service = Service(slots=1)
    service.ask()
    low, normal, high = (service.ask(Caller(priority=p)) for p in (Priority.LOW, Priority.NORMAL, Priority.HIGH))
    for _ in range(3):
        service.finish()
    assert service.sent[1:] == [high, normal, low]


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    service = Service(slots=1, per_model=3)
    for _ in range(4):
        service.ask()
    with pytest.raises(Overloaded) as refused:
        service.ask()
    assert refused.value.retry_after_ms == 1000  # nothing is known yet


def test_the_family_bounds_what_waits_for_all_its_models() -> None:
    service = Service(slots=1, queue=5)
    for name in "ab":
        for _ in range(3):
            service.ask(gate=service.admission.gate(name))
    service.ask(gate=service.admission.gate("c"))
    service.ask(gate=service.admission.gate("c"))
    with pytest.raises(Overloaded):
        service.ask(gate=service.admission.gate("c"))
    service.ask(gate=service.admission.gate("d"))  # whose slot is free


def test_one_model_that_answers_nothing_takes_no_slot_of_another() -> None:
    service = Service(slots=4)
    for _ in range(100):
        service.ask(gate=service.admission.gate("cold"))
    assert not service.ask(gate=service.admission.gate("warm")).waiting


def test_a_named_caller_cannot_fill_the_queue_for_others() -> None:
    service = Service(slots=1, queue=100)
    service.ask()
    for _ in range(50):
        service.ask(Caller("greedy"))
    with pytest.raises(Overloaded):
        service.ask(Caller("greedy"))
    assert service.waits() == 50
    service.ask(Caller("modest"))


def saturated(slots: int = 4, per_second: float = 100.0) -> Service:
    """A service that has been busy for a second, with a queue."""
    service = Service(slots=slots)
    for _ in range(slots + 2):
        service.ask()
    for _ in range(int(per_second)):
        service.finish(after_s=1 / per_second)
        service.ask()
    return service


def test_overload_is_refused_while_the_wait_is_still_short() -> None:
    service = saturated(slots=40)
    while service.waits() < 25:  # Far fewer than the slots: it takes less than twice the time.
        service.ask()
    with pytest.raises(Overloaded) as refused:
        service.ask()
    assert refused.value.retry_after_ms == pytest.approx(service.waits() * 10, rel=0.2)


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    service = saturated(slots=40)
    while service.waits() < 20:
        service.ask()
    with pytest.raises(Overloaded, match="deadline"):
        service.ask(remaining_s=0.1)
    service.ask(remaining_s=0.3)
    with pytest.raises(DeadlineExceeded):
        service.ask(remaining_s=0)


def test_a_stall_makes_the_wait_look_longer() -> None:
    service = saturated(slots=4)
    service.ask(remaining_s=0.5)
    service.now += 30
    with pytest.raises(Overloaded):
        service.ask(remaining_s=0.5)


def test_what_was_given_up_while_it_waited_is_never_sent() -> None:
    service = Service(slots=1)
    service.ask()
    gone = service.ask()
    last = service.ask()
    service.gate.leave(gone)
    service.finish()
    assert service.sent[-1] is last
    assert service.admission.total == 0


def test_gates_that_nobody_uses_go() -> None:
    service = Service()
    for number in range(2000):
        gate = service.admission.gate(str(number))
        gate.leave(service.ask(gate=gate))
    assert len(service.admission._gates) <= 257


def test_admission_costs_a_lone_request_little() -> None:
    service = Service(slots=64)
    gate = service.gate
    best = 1.0
    for _ in range(20):
        begin = time.perf_counter()
        for _ in range(200):
            gate.leave(gate.enter(ANONYMOUS, 60.0, lambda: None))
        best = min(best, (time.perf_counter() - begin) / 200)
    assert best < 20e-6


class Machine(RuleBasedStateMachine):
    """Any order of asking, finishing and giving up keeps the promises."""

    def __init__(self) -> None:
        super().__init__()
        self.service = Service(slots=2, queue=8, per_model=6)
        self.waiting: list[Ticket] = []

    @rule(
        name=strategies.sampled_from(["", "a", "b", "c"]),
        priority=strategies.sampled_from(Priority),
        remaining_s=strategies.sampled_from([0.01, 1.0, 60.0]),
    )
    def ask(self, name: str, priority: Priority, remaining_s: float) -> None:
        try:
            ticket = self.service.ask(Caller(name, priority=priority), remaining_s)
        except Overloaded as refused:
            assert len(self.service.under_way) >= 2 * self.service.replicas, "refused while a slot was free"
            assert refused.retry_after_ms
            return
        if ticket.waiting:
            self.waiting.append(ticket)

    @precondition(lambda self: self.service.under_way)
    @rule(after_s=strategies.floats(0, 2))
    def finish(self, after_s: float) -> None:
        self.service.finish(after_s=after_s)

    @rule(which=strategies.randoms(use_true_random=False))
    def give_up(self, which: random.Random) -> None:
        waiting = [ticket for ticket in self.waiting if ticket.waiting]
        if waiting:
            gone = which.choice(waiting)
            self.service.gate.leave(gone)
            self.waiting.remove(gone)

    @rule(replicas=strategies.integers(0, 3))
    def scale(self, replicas: int) -> None:
        self.service.replicas = replicas

    @invariant()
    def counts_agree(self) -> None:
        gate = self.service.gate
        waiting = [ticket for ticket in self.waiting if ticket.waiting]
        assert gate.waiting == len(waiting) == self.service.admission.total <= 8
        assert self.service.admission.waiting == Counter(ticket.caller.name for ticket in waiting)
        assert gate.under_way == len(self.service.under_way)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
