"""Keys, rates and quotas. The tests set the clock."""

from dataclasses import dataclass

import pytest
from pydantic import ValidationError

from deployments.contract.errors import InvalidRequest, Overloaded, PermissionDenied, Unauthenticated
from serve_app.access.api_keys import DAY_S, Access, AccessSettings, KeySettings, administers, new_key
from serve_app.access.caller import ANONYMOUS, Caller, Priority

KEY, SHA256 = new_key()
ADMIN, ADMIN_SHA256 = new_key()


@dataclass
class Time:
    now: float = 1000.0


def access(time: Time | None = None, **limits: object) -> Access:
    time = time or Time()
    keys = {
        "team": KeySettings.model_validate({"sha256": SHA256} | limits),
        "root": KeySettings(sha256=ADMIN_SHA256, administrator=True),
    }
    return Access(AccessSettings(keys=keys), lambda: time.now, lambda: time.now)


def bearer(key: str, **headers: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} | headers


def test_without_keys_every_request_is_anonymous_and_allowed() -> None:
    assert Access(AccessSettings()).caller("POST", "/models/x/load", {}) is ANONYMOUS


@pytest.mark.parametrize(
    "path", ["/infer", "/models", "/metrics", "/openapi.json", "/homes", "/docs/nope", "/v1/models", "/nope"]
)
@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": ""}, {"authorization": f"Basic {KEY}"}, bearer(""), bearer("mr-wrong"), bearer(SHA256)],
)
def test_with_keys_every_route_needs_one(path: str, headers: dict[str, str]) -> None:
    with pytest.raises(Unauthenticated):
        access().caller("GET", path, headers)


@pytest.mark.parametrize(
    "path",
    ["/healthz", "/health", "/readyz", "/v2/health/live", "/v2/health/ready", "/", "/docs", "/home/home.js"],
)
def test_health_and_pages_need_no_key(path: str) -> None:
    assert access().caller("GET", path, {}) is ANONYMOUS


def test_a_body_may_name_priority_and_deadline_where_the_key_may() -> None:
    caller = Caller("team", deadline_at=1.0)
    guard = access(may_prioritise=True)
    assert guard.rescheduled(caller, {}) is caller
    named = guard.rescheduled(caller, {"x-priority": "high", "x-deadline-ms": "2000"})
    assert named == Caller("team", priority=Priority.HIGH, deadline_at=1002.0)
    with pytest.raises(PermissionDenied):
        access().rescheduled(caller, {"x-priority": "high"})


def test_a_key_identifies_its_caller() -> None:
    assert access(share=3).caller("POST", "/infer", bearer(KEY)) == Caller("team", share=3)


@pytest.mark.parametrize(("method", "path"), [("GET", "/quarantine"), ("DELETE", "/quarantine/d")])
def test_the_quarantine_needs_an_administrators_key(method: str, path: str) -> None:
    with pytest.raises(PermissionDenied):
        access().caller(method, path, bearer(KEY))
    assert access().caller(method, path, bearer(ADMIN)).name == "root"
    assert not administers("GET", "/quarantined")


@pytest.mark.parametrize("path", ["/models/m/load", "/models/team/nested/unload"])
def test_changing_models_needs_an_administrators_key(path: str) -> None:
    assert administers("POST", path)
    with pytest.raises(PermissionDenied):
        access().caller("POST", path, bearer(KEY))
    assert access().caller("POST", path, bearer(ADMIN)).name == "root"
    assert access().caller("GET", path, bearer(KEY)).name == "team"


def test_a_key_for_metrics_reads_nothing_else() -> None:
    keys = access(metrics_only=True)
    assert keys.caller("GET", "/metrics", bearer(KEY)).name == "team"
    for method, path in [
        ("GET", "/models"),
        ("POST", "/infer"),
        ("POST", "/models/m/load"),
        ("GET", "/metrics/"),
        ("GET", "/openapi.json"),
    ]:
        with pytest.raises(PermissionDenied):
            keys.caller(method, path, bearer(KEY))
    with pytest.raises(ValidationError, match="administrator"):
        access(metrics_only=True, administrator=True)


def test_the_rate_limits_after_a_burst_and_gives_the_time_to_retry() -> None:
    time = Time()
    keys = access(time, requests_per_second=2, burst=3)
    for _ in range(3):
        keys.take(Caller("team"))
    with pytest.raises(Overloaded) as refused:
        keys.take(Caller("team"))
    assert refused.value.retry_after_ms == 500
    time.now += 0.5
    keys.take(Caller("team"))
    keys.take(Caller("root"))  # which has no rate


def test_a_rate_that_is_configured_later_starts_with_a_whole_burst() -> None:
    keys = access()
    for _ in range(1000):
        keys.take(Caller("team"))
    keys.update(AccessSettings(keys={"team": KeySettings(sha256=SHA256, requests_per_second=1, burst=2)}))
    keys.take(Caller("team"))
    keys.take(Caller("team"))
    with pytest.raises(Overloaded):
        keys.take(Caller("team"))


def test_quotas_hold_for_a_day() -> None:
    time = Time(DAY_S * 20000 + 3600)
    keys = access(time, requests_per_day=2, tokens_per_day=100)
    keys.take(Caller("team"))
    keys.spend(Caller("team"), 150)
    with pytest.raises(Overloaded, match="tokens") as refused:
        keys.check(Caller("team"))
    assert refused.value.retry_after_ms == (DAY_S - 3600) * 1000
    time.now += DAY_S
    keys.take(Caller("team"))
    keys.take(Caller("team"))
    with pytest.raises(Overloaded, match="requests of today"):
        keys.take(Caller("team"))


def test_new_settings_hold_at_once_and_keep_the_usage() -> None:
    keys = access(requests_per_day=5)
    for _ in range(4):
        keys.take(Caller("team"))
    keys.update(AccessSettings(keys={"team": KeySettings(sha256=SHA256, requests_per_day=4)}))
    with pytest.raises(Overloaded):
        keys.take(Caller("team"))
    with pytest.raises(Unauthenticated):
        keys.caller("POST", "/infer", bearer(ADMIN))


def test_high_priority_needs_a_key_that_may_prioritise() -> None:
    headers = bearer(KEY, **{"x-priority": "High"})
    with pytest.raises(PermissionDenied):
        access().caller("POST", "/infer", headers)
    assert access(may_prioritise=True).caller("POST", "/infer", headers).priority is Priority.HIGH
    assert access().caller("POST", "/infer", bearer(KEY, **{"x-priority": "low"})).priority is Priority.LOW
    with pytest.raises(InvalidRequest, match="x-priority"):
        access().caller("POST", "/infer", bearer(KEY, **{"x-priority": "urgent"}))


@pytest.mark.parametrize("asked", ["0", "-1", "1.5", "soon", "", "9" * 30, "१"])
def test_a_deadline_must_be_a_positive_number_of_milliseconds(asked: str) -> None:
    with pytest.raises(InvalidRequest, match="x-deadline-ms"):
        Access(AccessSettings()).caller("POST", "/infer", {"x-deadline-ms": asked})


def test_a_deadline_is_counted_from_the_requests_arrival() -> None:
    caller = Access(AccessSettings(), lambda: 10.0).caller("POST", "/infer", {"x-deadline-ms": "1500"})
    assert caller.deadline_at == 11.5


def test_two_names_with_one_key_are_refused() -> None:
    same = KeySettings(sha256=SHA256)
    with pytest.raises(ValidationError, match="two names"):
        AccessSettings(keys={"a": same, "b": same})
