"""How long a caller's request may take, and the order of priorities."""

import time

from serve_app.access.caller import ANONYMOUS, Caller, Priority, RequestContext


def test_the_familys_deadline_bounds_the_callers() -> None:
    assert ANONYMOUS.remaining_s(60) == 60
    caller = Caller(deadline_at=time.monotonic() + 1000)
    assert 999 < caller.remaining_s(2000) <= 1000
    assert caller.remaining_s(60) == 60


def test_a_deadline_in_the_past_leaves_less_than_no_time() -> None:
    assert Caller(deadline_at=time.monotonic() - 1).remaining_s(60) <= -1


def test_high_priority_sorts_before_normal_and_low() -> None:
    assert sorted(Priority) == [Priority.HIGH, Priority.NORMAL, Priority.LOW]


def test_a_request_without_a_caller_is_anonymous() -> None:
    assert RequestContext("r").caller is ANONYMOUS
