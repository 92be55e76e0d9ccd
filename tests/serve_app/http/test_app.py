"""The routes in one process: every failure on them is the contract's Error."""

from typing import Any, Protocol

import pytest
from starlette.testclient import TestClient

from deployments.contract.status import AnsweredRequest
from serve_app.access.api_keys import AccessSettings, KeySettings, new_key
from tests.support.http_runtimes import REQUEST, FakeRuntime

TYPE = "content-type"


class Json(Protocol):
    """A response of httpx or of httpx2: Starlette's test client gives either."""

    def json(self) -> Any: ...


def error_in(response: Json) -> dict[str, object]:
    """The fields of the response's Error."""
    body = response.json()
    assert set(body) == {"Error"}
    assert body["Error"]["message"]
    assert body["Error"]["request_id"]
    fields: dict[str, object] = body["Error"]
    return fields


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"),
    [
        ("GET", "/nope", {}, 404, "not_found"),
        ("POST", "/infer/", {"content": REQUEST}, 404, "not_found"),
        ("GET", "/v3/health/live", {}, 404, "not_found"),
        ("GET", "/infer", {}, 405, "method_not_allowed"),
        ("DELETE", "/models", {}, 405, "method_not_allowed"),
        ("POST", "/infer", {"content": b"{"}, 400, "invalid_request"),
        ("POST", "/infer", {"content": REQUEST, "headers": {TYPE: "text/csv"}}, 415, "unsupported_media_type"),
        ("POST", "/infer/batch", {"content": REQUEST, "headers": {TYPE: "text/csv"}}, 415, "unsupported_media_type"),
        ("POST", "/infer", {"content": b"x" * (2**20 + 1)}, 413, "payload_too_large"),
    ],
)
def test_every_failure_is_the_contracts_error(
    http: TestClient, method: str, path: str, options: dict[str, Any], status: int, code: str
) -> None:
    response = http.request(method, path, **options)
    assert response.status_code == status
    assert error_in(response)["code"] == code


def test_the_reason_of_an_internal_failure_is_not_in_the_response(http: TestClient, runtime: FakeRuntime) -> None:
    runtime.statuses = RuntimeError("/a/path/that/no/caller/may/see")
    response = http.get("/models")
    assert (response.status_code, error_in(response)["code"]) == (500, "internal")
    assert "/a/path" not in response.text


def test_a_method_that_a_path_does_not_have_is_answered_with_those_it_has(http: TestClient) -> None:
    assert http.get("/infer").headers["allow"] == "POST"


def test_health_readiness_and_metrics(http: TestClient, runtime: FakeRuntime) -> None:
    assert http.get("/healthz").text == http.get("/health").text == "alive\n"
    assert http.get("/readyz").status_code == 200
    runtime.is_ready = False
    answer = http.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "not ready: text_generation has no replica that answers\n")
    assert http.get("/healthz").status_code == 200
    assert http.get("/metrics").text == "inference_requests_total 1\n"
    assert http.get("/metrics").headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


def answered(request_id: str, key: str = "") -> AnsweredRequest:
    return AnsweredRequest(request_id, 1.0, key, "text_generation", "m", "ok", None, 0.5, 2.0, "r", False, 7)


def test_a_recent_request_is_explained_by_its_id(http: TestClient, runtime: FakeRuntime) -> None:
    runtime.recent["a-request"] = answered("a-request")
    explained = http.get("/requests/a-request").json()
    assert (explained["outcome"], explained["queue_s"], explained["total_s"], explained["tokens"]) == ("ok", 0.5, 2, 7)
    assert error_in(http.get("/requests/nope"))["code"] == "not_found"


def test_with_keys_a_request_is_explained_to_its_own_key_and_to_administrators(
    http: TestClient, runtime: FakeRuntime
) -> None:
    keys = {name: new_key() for name in ("one", "other", "root")}
    settings = {name: KeySettings(sha256=sha256, administrator=name == "root") for name, (_, sha256) in keys.items()}
    runtime.access.update(AccessSettings(keys=settings))
    runtime.recent["a-request"] = answered("a-request", "one")
    statuses = {
        name: http.get("/requests/a-request", headers={"authorization": f"Bearer {key}"}).status_code
        for name, (key, _) in keys.items()
    }
    assert statuses == {"one": 200, "other": 404, "root": 200}


def test_openmetrics_is_for_those_who_ask_for_it(http: TestClient) -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3"
    response = http.get("/metrics", headers={"accept": accept})
    assert response.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert response.text.endswith("# EOF\n")
