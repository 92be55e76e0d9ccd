"""Cross-origin requests: preflights without a key, and answers that a page's script may read."""

import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from serve_app.access.api_keys import Access, AccessSettings, KeySettings, new_key
from serve_app.config.config import IngressSettings
from tests.support.http_runtimes import REQUEST, FakeRuntime, http_app

PAGE = "https://chat.example.com"
KEY, SHA256 = new_key()
BEARER = {"authorization": f"Bearer {KEY}"}


def browser(*allowed: str, statuses: Exception | None = None) -> TestClient:
    runtime = FakeRuntime()
    runtime.settings = IngressSettings(max_body_mb=1, allowed_origins=allowed)
    runtime.access = Access(AccessSettings(keys={"team": KeySettings(sha256=SHA256)}))
    runtime.statuses = statuses or []
    return TestClient(http_app(runtime), raise_server_exceptions=False)


def preflight(client: TestClient, path: str, origin: str = PAGE) -> tuple[int, str | None, str | None]:
    """The status, the origin and the headers that are allowed."""
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    headers = client.options(path, headers={"origin": origin} | asks)
    allowed = headers.headers.get
    return headers.status_code, allowed("access-control-allow-origin"), allowed("access-control-allow-headers")


@pytest.mark.parametrize("path", ["/infer", "/v1/chat/completions", "/models/m/load"])
def test_a_preflight_needs_no_key(path: str) -> None:
    assert preflight(browser(PAGE), path) == (200, PAGE, "authorization,content-type")
    assert preflight(browser("*"), path, "https://any.example") == (200, "*", "authorization,content-type")


@pytest.mark.parametrize("allowed", [(), ("https://other.example",)])
def test_another_origin_gets_an_ordinary_answer_without_permission(allowed: tuple[str, ...]) -> None:
    client = browser(*allowed)
    assert preflight(client, "/infer") == (401, None, None)
    answer = client.get("/models", headers=BEARER | {"origin": PAGE})
    assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (200, None)


@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        ("GET", "/models", BEARER, 500),
        ("POST", "/infer", {}, 401),
        ("POST", "/infer", BEARER, 503),
        ("GET", "/no", BEARER, 404),
    ],
)
def test_a_script_of_an_allowed_page_may_read_every_answer_and_its_request_id(
    method: str, path: str, key: dict[str, str], status: int
) -> None:
    client = browser(PAGE, statuses=RuntimeError("broken"))
    answer = client.request(method, path, content=REQUEST, headers=key | {"origin": PAGE})
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
    assert answer.json()["Error"]["code"]


@pytest.mark.parametrize("origin", ["chat.example.com", "https://chat.example.com/", "https://a b", ""])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError):
        IngressSettings(allowed_origins=(origin,))
