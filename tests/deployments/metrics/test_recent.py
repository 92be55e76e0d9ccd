"""An ingress knows its last requests, and no more of them than it may hold."""

from dataclasses import replace

from deployments.contract.status import AnsweredRequest
from deployments.metrics.recent import RecentRequests

ONE = AnsweredRequest("1", 1.0, "", "images", "m", "ok", None, 0.1, 0.2, "r", False, 0)


def test_the_oldest_requests_are_forgotten() -> None:
    recent = RecentRequests(kept=2)
    for request_id in ("1", "2", "1", "3"):
        recent.add(replace(ONE, request_id=request_id, arrived_at=float(request_id)))
    assert [recent.get(request_id) is not None for request_id in ("1", "2", "3")] == [True, False, True]


def test_of_two_requests_with_one_id_the_later_one_is_known() -> None:
    recent = RecentRequests()
    recent.add(ONE)
    recent.add(replace(ONE, outcome="overloaded", reason="as many requests wait as may"))
    found = recent.get("1")
    assert found is not None
    assert (found.outcome, found.reason) == ("overloaded", "as many requests wait as may")
