"""The order of loads: the first request reserves what it waits for, others pass beside it, and turns end."""

import asyncio

from deployments.contract.errors import OutOfMemory
from deployments.residency.ledger import HeadReservation, Ledger, Limit
from deployments.residency.load_queue import TURN_S, LoadQueue, LoadRequest
from tests.deployments.residency.fakes import model
from tests.deployments.residency.test_ledger import filled
from tests.support.clock import Clock


def queue_of(ledger: Ledger, clock: Clock, *requests: LoadRequest) -> LoadQueue:
    queue = LoadQueue(ledger, float, clock)
    for request in requests:
        queue.append(request)
    return queue


def request(size: int) -> LoadRequest:
    return LoadRequest(model(f"of-{size}", 1), size, asyncio.get_running_loop().create_future())


async def test_models_are_loaded_in_the_order_of_their_requests(clock: Clock) -> None:
    first, second = request(50), request(50)
    queue = queue_of(Ledger(Limit(100)), clock, first, second)
    assert queue.pop_next() == (first, [])
    assert queue.pop_next() == (second, [])
    assert not queue


async def test_later_requests_do_not_take_what_the_first_one_waits_for(clock: Clock) -> None:
    ledger = filled(40, 40, leased=True)
    first, second = request(100), request(40)
    queue = queue_of(ledger, clock, first, second)
    ledger.release("0")
    assert queue.pop_next() is None, "20 free and 40 idle bytes would suffice for the second request"
    ledger.release("1")
    assert queue.pop_next() == (first, ["0", "1"])


async def test_a_later_request_passes_where_it_fits_beside_the_first_ones_reservation(clock: Clock) -> None:
    first, second = request(90), request(10)
    queue = queue_of(filled(80, leased=True), clock, first, second)
    assert queue.pop_next() == (second, [])
    assert queue.pop_next() is None


async def test_a_request_that_waits_in_vain_for_a_turn_goes_to_the_end(clock: Clock) -> None:
    ledger = filled(40, 60, leased=True)
    first, second = request(100), request(40)
    queue = queue_of(ledger, clock, first, second)
    ledger.release("0")
    assert queue.pop_next() is None
    assert queue.seconds_to_next_check() == TURN_S
    clock.now += TURN_S
    assert queue.pop_next() == (second, ["0"])
    assert queue.head()[0] is first


async def test_the_next_check_is_when_the_first_protection_ends(clock: Clock) -> None:
    ledger = filled(80)
    ledger.entries["0"].protected_until = 0.25
    queue = queue_of(ledger, clock, waiting := request(80))
    assert queue.pop_next() is None
    assert queue.seconds_to_next_check() == 0.25
    clock.now += 0.25
    assert queue.pop_next() == (waiting, ["0"])


async def test_a_request_that_can_never_fit_is_answered_and_blocks_no_one(clock: Clock) -> None:
    large, small = request(101), request(40)
    queue = queue_of(Ledger(Limit(100)), clock, large, small)
    popped = queue.pop_next()
    assert popped is not None
    assert popped[0] is large
    assert isinstance(popped[1], OutOfMemory)
    assert queue.pop_next() == (small, [])


async def test_the_next_turn_begins_when_the_first_request_is_removed(clock: Clock) -> None:
    first, second = request(90), request(30)
    queue = queue_of(filled(80, leased=True), clock, first, second)
    assert queue.pop_next() is None
    queue.remove(first)
    head, reservation = queue.head()
    assert head is second
    assert reservation == HeadReservation(frozenset("0"), 0)
