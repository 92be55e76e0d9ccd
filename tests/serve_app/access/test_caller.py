"""The order of priorities, and requests without a caller."""

from serve_app.access.caller import ANONYMOUS, Priority, RequestContext


def test_high_priority_sorts_before_normal_and_low() -> None:
    assert sorted(Priority) == [Priority.HIGH, Priority.NORMAL, Priority.LOW]


def test_a_request_without_a_caller_is_anonymous() -> None:
    assert RequestContext("r").caller is ANONYMOUS
