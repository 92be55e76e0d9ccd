"""Seconds of work that wait, by a clock that the test moves."""

from contextlib import ExitStack, suppress

import pytest

from deployments.replica.calls import BUSY, CALLS_QUEUED, PACE, QUEUED_S
from deployments.replica.replica import Workload


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def answered(workload: Workload, clock: Clock, units: float, seconds: float, model: str = "m") -> None:
    with workload.job(model, units):
        clock.now += seconds


def test_what_waits_is_counted_in_seconds_by_the_pace_of_its_model() -> None:
    clock = Clock()
    workload = Workload(clock=clock, work=float)
    answered(workload, clock, units=10, seconds=1)
    answered(workload, clock, units=10, seconds=100, model="slow")
    with ExitStack() as calls:
        for units, model in ((1000, "m"), (30, "m"), (20, "slow")):
            calls.enter_context(workload.job(model, units))
        report = workload.report()
    assert report[QUEUED_S] == pytest.approx(3 + 200)  # the first is worked on
    assert report[CALLS_QUEUED] == 2
    assert workload.report()[CALLS_QUEUED] == 0


def test_a_call_of_a_model_never_answered_counts_by_the_pace_of_all_others() -> None:
    clock = Clock()
    workload = Workload(clock=clock, work=float)
    answered(workload, clock, units=1, seconds=4)
    with workload.job("m", 1), workload.job("new", 2):
        assert workload.report()[QUEUED_S] == 8


def test_before_the_first_answer_nothing_is_known_to_wait() -> None:
    workload = Workload(clock=Clock(), work=float)
    with workload.job("new", 1), workload.job("new", 1):
        assert workload.report() == {QUEUED_S: 0, CALLS_QUEUED: 1, PACE: 0, BUSY: 0}


def test_a_call_that_waits_takes_nothing_from_the_pace() -> None:
    """First come first served: each takes a second, however long it waited."""
    clock = Clock()
    workload = Workload(clock=clock, work=float)
    calls = [ExitStack() for _ in range(4)]
    for call in calls:
        call.enter_context(workload.job("m", 1))
    for call in calls:
        clock.now += 1
        call.close()
    with workload.job("m", 1), workload.job("m", 1):
        assert workload.report()[QUEUED_S] == pytest.approx(1)


@pytest.mark.parametrize("side_by_side", [1, 4])
def test_calls_of_one_batch_share_its_time(side_by_side: int) -> None:
    clock = Clock()
    workload = Workload(side_by_side, clock, float)
    with ExitStack() as batch:
        for _ in range(4):
            batch.enter_context(workload.job("m", 50))
        clock.now += 2
    with ExitStack() as calls:
        for _ in range(side_by_side):
            calls.enter_context(workload.job("m", 1))
        assert workload.report()[QUEUED_S] == 0
        calls.enter_context(workload.job("m", 100))
        assert workload.report()[QUEUED_S] == pytest.approx(1, rel=0.1)  # what is older counts a little less


def test_the_pace_follows_what_changes_and_what_fails_changes_nothing() -> None:
    clock = Clock()
    workload = Workload(clock=clock, work=float)
    for seconds in (1, *[3] * 200):
        answered(workload, clock, units=1, seconds=seconds)
    with suppress(ValueError), workload.job("m", 1):
        clock.now += 1000
        raise ValueError
    with workload.job("m", 1), workload.job("m", 1):
        assert workload.report()[QUEUED_S] == pytest.approx(3, rel=0.01)


def test_busy_is_the_share_of_what_could_be_done_since_the_last_report() -> None:
    clock = Clock()
    workload = Workload(4, clock, float)
    with workload.job("m", 1), workload.job("m", 1):
        clock.now += 3
    clock.now += 1
    assert workload.report()[BUSY] == pytest.approx(2 / 4 * 3 / 4)
    clock.now += 1
    assert workload.report()[BUSY] == 0
