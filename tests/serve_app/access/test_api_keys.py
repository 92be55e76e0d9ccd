"""Keys, rates and quotas. Time is a number that the tests move."""

import time
from dataclasses import dataclass

import pytest
from pydantic import ValidationError

from deployments.contract.errors import InvalidRequest, Overloaded, PermissionDenied, Unauthenticated
from serve_app.access.api_keys import DAY_S, Access, AccessSettings, KeySettings, administers, new_key
from serve_app.access.caller import ANONYMOUS, Caller, Priority
from serve_app.config.config import RuntimeConfig

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


def test_without_keys_anybody_may_do_anything() -> None:
    assert Access(AccessSettings()).caller("POST", "/models/x/load", {}) is ANONYMOUS


@pytest.mark.parametrize("path", ["/infer", "/models", "/metrics", "/docs", "/openapi.json", "/v1/models", "/nope"])
@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": ""}, {"authorization": f"Basic {KEY}"}, bearer(""), bearer("mr-wrong"), bearer(SHA256)],
)
def test_with_keys_every_route_needs_one(path: str, headers: dict[str, str]) -> None:
    with pytest.raises(Unauthenticated):
        access().caller("GET", path, headers)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"])
def test_health_needs_none(path: str) -> None:
    assert access().caller("GET", path, {}) is ANONYMOUS


def test_a_key_is_known_by_its_name() -> None:
    assert access(share=3).caller("POST", "/infer", bearer(KEY)) == Caller("team", share=3)


@pytest.mark.parametrize("path", ["/models/m/load", "/models/team/nested/unload", "/v2/repository/models/m/load"])
def test_administration_needs_an_administrators_key(path: str) -> None:
    assert administers("POST", path)
    with pytest.raises(PermissionDenied):
        access().caller("POST", path, bearer(KEY))
    assert access().caller("POST", path, bearer(ADMIN)).name == "root"
    assert access().caller("GET", path, bearer(KEY)).name == "team"


def test_a_rate_holds_after_a_burst_and_says_when_to_come_again() -> None:
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


def test_a_rate_that_is_set_later_asks_nothing_for_what_came_before() -> None:
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


def test_other_settings_hold_at_once_and_what_was_used_stays_used() -> None:
    keys = access(requests_per_day=5)
    for _ in range(4):
        keys.take(Caller("team"))
    keys.update(AccessSettings(keys={"team": KeySettings(sha256=SHA256, requests_per_day=4)}))
    with pytest.raises(Overloaded):
        keys.take(Caller("team"))
    with pytest.raises(Unauthenticated):
        keys.caller("POST", "/infer", bearer(ADMIN))


def test_high_priority_is_for_keys_that_may() -> None:
    headers = bearer(KEY, **{"x-priority": "High"})
    with pytest.raises(PermissionDenied):
        access().caller("POST", "/infer", headers)
    assert access(may_prioritise=True).caller("POST", "/infer", headers).priority is Priority.HIGH
    assert access().caller("POST", "/infer", bearer(KEY, **{"x-priority": "low"})).priority is Priority.LOW
    with pytest.raises(InvalidRequest, match="x-priority"):
        access().caller("POST", "/infer", bearer(KEY, **{"x-priority": "urgent"}))


@pytest.mark.parametrize("asked", ["0", "-1", "1.5", "soon", "", "9" * 30, "१"])
def test_a_deadline_is_a_positive_number(asked: str) -> None:
    with pytest.raises(InvalidRequest, match="x-deadline-ms"):
        Access(AccessSettings()).caller("POST", "/infer", {"x-deadline-ms": asked})


def test_a_deadline_is_bounded_by_the_familys() -> None:
    asked = Access(AccessSettings(), time.monotonic).caller("POST", "/infer", {"x-deadline-ms": "1000000"})
    assert 0 < asked.remaining_s(2000) <= 1000
    assert asked.remaining_s(60) == 60


def test_any_other_address_than_loopback_needs_keys() -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.0.0.9"):
        assert RuntimeConfig(host=host).host == host
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        with pytest.raises(ValidationError, match=r"access\.keys"):
            RuntimeConfig(host=host)
        RuntimeConfig(host=host, access=AccessSettings(keys={"a": KeySettings(sha256=SHA256)}))


def test_two_names_for_one_key_are_a_mistake() -> None:
    same = KeySettings(sha256=SHA256)
    with pytest.raises(ValidationError, match="two names"):
        AccessSettings(keys={"a": same, "b": same})
