"""Admission: slots, turns, refusals, and what waiting costs. Time is a number that the tests move."""

import asyncio
import time
from collections import Counter

import pytest

from deployments.contract.errors import DeadlineExceeded, Overloaded
from deployments.contract.settings import FamilySettings
from deployments.contract.types import TextGeneration
from deployments.replica.calls import Call
from serve_app.access.caller import ANONYMOUS, Caller, Priority
from serve_app.dispatch.admission import GROWS_WITHIN_S, MANY_QUEUES, Admission, Slot
from serve_app.dispatch.pending import Pending
from tests.serve_app.dispatch.calls import pending_of
from tests.serve_app.dispatch.service import REQUEST, Service
from tests.support.until import turns


def test_a_lone_request_goes_at_once() -> None:
    service = Service()
    slot = service.ask()
    assert service.sent == [slot]
    assert not slot.waiting


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


def test_requests_that_wait_go_in_order() -> None:
    service = Service(slots=1)
    slots = [service.ask() for _ in range(5)]
    service.finish(4)
    assert service.sent == slots


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
    assert Counter(slot.caller.name for slot in service.sent[1:11]) == {"greedy": 5, "modest": 5}


def test_a_larger_share_gets_more_turns() -> None:
    service = Service(slots=1)
    service.ask()
    for _ in range(40):
        service.ask(Caller("large", share=3))
        service.ask(Caller("small"))
    for _ in range(20):
        service.finish()
    assert Counter(slot.caller.name for slot in service.sent[1:21]) == {"large": 15, "small": 5}


def test_a_higher_priority_goes_first() -> None:
    service = Service(slots=1)
    service.ask()
    low, normal, high = (service.ask(Caller(priority=p)) for p in (Priority.LOW, Priority.NORMAL, Priority.HIGH))
    for _ in range(3):
        service.finish()
    assert service.sent[1:] == [high, normal, low]


def test_a_full_queue_refuses_with_a_time_to_retry() -> None:
    service = Service(slots=1, per_model=3)
    for _ in range(4):
        service.ask()
    with pytest.raises(Overloaded) as refused:
        service.ask()
    assert refused.value.retry_after_ms == 1000  # nothing is known yet


def test_the_family_bounds_what_waits_for_all_its_models() -> None:
    service = Service(slots=1, queued=5)
    for name in "ab":
        for _ in range(3):
            service.ask(queue=service.admission.queue(name))
    service.ask(queue=service.admission.queue("c"))
    service.ask(queue=service.admission.queue("c"))
    with pytest.raises(Overloaded):
        service.ask(queue=service.admission.queue("c"))
    service.ask(queue=service.admission.queue("d"))  # whose slot is free


def test_one_model_that_answers_nothing_takes_no_slot_of_another() -> None:
    service = Service(slots=4)
    for _ in range(100):
        service.ask(queue=service.admission.queue("cold"))
    assert not service.ask(queue=service.admission.queue("warm")).waiting


def test_a_named_caller_cannot_fill_the_queue_for_others() -> None:
    service = Service(slots=1, queued=100)
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


def test_while_further_replicas_may_come_a_long_wait_alone_is_no_reason_to_refuse() -> None:
    service = Service(slots=1, most=2)
    for _ in range(8):
        service.ask()
    while service.now < GROWS_WITHIN_S - 1:
        service.finish(after_s=0.1)
        service.ask()
    service.finish(after_s=1)
    with pytest.raises(Overloaded, match="more requests come"):  # none came
        service.ask()


def test_replicas_that_came_after_the_queue_have_time_to_catch_up_and_those_that_were_there_have_not() -> None:
    """A burst from one replica to the most there may be: what waited meanwhile refuses nobody."""
    service = Service(slots=1, most=2)
    for _ in range(20):
        service.ask()
    service.replicas = 2
    while service.now < 10:
        service.finish(after_s=0.1)
        service.ask()
    for _ in range(20):
        service.finish(after_s=0.1)
    assert service.waits() == 0
    while service.waits() < 2:  # of as many replicas as there may be
        service.ask()
    with pytest.raises(Overloaded, match="more requests come"):
        service.ask()


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


def test_a_request_cancelled_while_it_waits_is_never_sent() -> None:
    service = Service(slots=1)
    service.ask()
    cancelled = service.ask()
    last = service.ask()
    service.queue.leave(cancelled)
    service.finish()
    assert service.sent[-1] is last
    assert service.admission.total == 0


def test_queues_without_a_request_are_deleted() -> None:
    service = Service()
    for number in range(8 * MANY_QUEUES):
        queue = service.admission.queue(str(number))
        queue.leave(service.ask(queue=queue))
    assert len(service.admission._queues) <= MANY_QUEUES + 1


def pending(timeout_s: float = 60) -> Pending:
    call = Call(TextGeneration(model_id="m", prompt="", max_tokens=1), "r", timeout_s)
    return pending_of(call)


async def test_a_free_slot_is_taken_within_the_same_turn_of_the_loop() -> None:
    admission = Admission(FamilySettings(max_ongoing_requests=1), lambda: 1)
    entering = admission.slot(pending()).__aenter__()
    with pytest.raises(StopIteration):
        entering.send(None)


async def test_a_request_without_a_free_slot_goes_when_one_is_left() -> None:
    admission, order = Admission(FamilySettings(max_ongoing_requests=1), lambda: 1), list[str]()

    async def request(name: str) -> None:
        async with admission.slot(pending()):
            order.append(name)
            await turns(3)
            order.append(name)

    async with asyncio.TaskGroup() as requests:
        for name in "abc":
            requests.create_task(request(name))
    assert order == list("aabbcc")
    assert admission.queue("").idle


async def test_the_work_that_waits_is_that_of_the_requests_without_a_slot() -> None:
    admission = Admission(FamilySettings(max_ongoing_requests=1), lambda: 1, work=lambda request: 0.1)

    async def request() -> None:
        async with admission.slot(pending()):
            await turns()

    async with asyncio.TaskGroup() as requests:
        for _ in range(4):
            requests.create_task(request())
        await turns()
        assert admission.waiting_units == pytest.approx(0.3)
    assert admission.waiting_units == 0


async def test_a_deadline_ends_the_wait() -> None:
    admission = Admission(FamilySettings(max_ongoing_requests=1), lambda: 1)
    async with admission.slot(pending()):
        with pytest.raises(DeadlineExceeded):
            async with admission.slot(pending(0.001)):
                raise AssertionError("there was no slot")
        assert admission.queue("").waiting == 0
    assert admission.queue("").idle


@pytest.mark.parametrize("turn_came", [False, True])
async def test_a_request_that_is_cancelled_while_it_waits_keeps_no_slot(turn_came: bool) -> None:
    admission = Admission(FamilySettings(max_ongoing_requests=1), lambda: 1)

    async def request() -> None:
        async with admission.slot(pending()):
            raise AssertionError("it was cancelled")

    async with admission.slot(pending()):
        waiting = asyncio.create_task(request())
        await turns()
        assert admission.queue("").waiting == 1
        if not turn_came:
            waiting.cancel()
            await turns(2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert admission.queue("").idle


def test_admission_costs_a_lone_request_little() -> None:
    queue = Service(slots=64).queue
    best = 1.0
    for _ in range(20):
        begin = time.perf_counter()
        for _ in range(200):
            slot = Slot(queue, ANONYMOUS, 60.0, REQUEST)
            queue.enter(slot)
            queue.leave(slot)
        best = min(best, (time.perf_counter() - begin) / 200)
    assert best < 20e-6
