"""The order of priorities, and requests without a caller."""

from serve_app.access.caller import ANONYMOUS, Priority, RequestContext


def test_high_priority_sorts_before_normal_and_low() -> None:
    assert sorted(Priority) == [Priority.HIGH, Priority.NORMAL, Priority.LOW]


def test_a_request_without_a_caller_is_anonymous() -> None:
    assert RequestContext("r").caller is ANONYMOUS


def test_each_of_several_requests_that_came_as_one_has_an_id_that_it_has_again() -> None:
    context = RequestContext("r", ANONYMOUS, {"top_k": 5})
    assert [context.of(number).request_id for number in range(3)] == ["r", "r-1", "r-2"]
    assert context.of(2).left_open == {"top_k": 5}
