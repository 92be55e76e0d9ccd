"""Wherever the application is mounted, every route asks for the same key and gives the same answer."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from serve_app.access.api_keys import Access, AccessSettings, KeySettings, new_key
from serve_app.http.middleware import path_of
from tests.support import PROJECT
from tests.support.http_runtimes import FakeRuntime, http_app

KEY, SHA256 = new_key()
ADMIN, ADMIN_SHA256 = new_key()
SCRAPER, SCRAPER_SHA256 = new_key()
KEYS = {
    "user": KeySettings(sha256=SHA256),
    "scraper": KeySettings(sha256=SCRAPER_SHA256, metrics_only=True),
    "root": KeySettings(sha256=ADMIN_SHA256, administrator=True),
}
CALLERS = {
    "nobody": {},
    "user": {"authorization": f"Bearer {KEY}"},
    "scraper": {"authorization": f"Bearer {SCRAPER}"},
    "administrator": {"authorization": f"Bearer {ADMIN}"},
}
Request = tuple[str, str, str]


class Mounted:
    """The application below a prefix. `before` is what stands before the paths of its requests."""

    def __init__(self, root_path: str = "", before: str = "") -> None:
        self.before = before
        self.runtime = FakeRuntime()
        self.runtime.access = Access(AccessSettings(keys=KEYS))
        self.client = TestClient(http_app(self.runtime), raise_server_exceptions=False, root_path=root_path)

    def asked(self, caller: str, method: str, path: str) -> tuple[Any, ...]:
        """The status, the body and the methods that are allowed; what was done to models."""
        self.runtime.administered = []
        response = self.client.request(method, self.before + path, headers=CALLERS[caller] | {"x-request-id": "one"})
        body = response.json() if "json" in response.headers["content-type"] else response.text
        if isinstance(body, dict):
            body.pop("servers", None)
        else:
            body = re.sub(r'<base href="[^"]*">', "", body)
        return response.status_code, body, response.headers.get("allow"), self.runtime.administered


@contextmanager
def mounted_below(root_path: str = "", before: str = "") -> Iterator[Mounted]:
    """All requests in one event loop: a new one for each takes most of their time."""
    mounted = Mounted(root_path, before)
    with mounted.client:
        yield mounted


def requests() -> Iterator[Request]:
    """Every route's methods and some others, and paths without a route, with and without a slash behind."""
    routes = [route.path for route in http_app(FakeRuntime()).routes if isinstance(route, Route)]
    for path in (
        *dict.fromkeys(routes),
        "/nope",
        "/v1",
        "/v1/nope",
        "/v2/nope",
        "/modelsx/m/load",
        "/llm/models/m/load",
    ):
        for slash in ("", "/") if path != "/" else ("",):
            for method in ("GET", "POST", "PUT"):
                for caller in CALLERS:
                    yield caller, method, path.replace("{model_id:path}", "team/m") + slash


@pytest.fixture(scope="module")
def without_prefix() -> dict[Request, tuple[Any, ...]]:
    with mounted_below() as mounted:
        return {request: mounted.asked(*request) for request in requests()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("root_path", "before"),
    [
        ("/llm", "/llm"),  # Serve's route_prefix
        pytest.param("/gateway/llm", "/gateway/llm", marks=pytest.mark.sweep),  # behind an ASGI server's own root_path
        pytest.param("/gateway", "", marks=pytest.mark.sweep),  # a proxy that has taken its prefix off
        pytest.param("/models", "/models", marks=pytest.mark.sweep),
        pytest.param("/v1", "/v1", marks=pytest.mark.sweep),
    ],
)
def test_a_prefix_changes_neither_who_may_nor_what_is_answered(
    without_prefix: dict[Request, tuple[Any, ...]], root_path: str, before: str
) -> None:
    with mounted_below(root_path, before) as mounted:
        for request, answer in without_prefix.items():
            assert mounted.asked(*request) == answer, request


@pytest.mark.parametrize("verb", ["load", "unload", "pin", "unpin", "plan"])
def test_an_ordinary_key_administers_nothing_under_a_prefix(verb: str) -> None:
    mounted = Mounted("/llm", "/llm")
    status, body, _, done = mounted.asked("user", "POST", f"/models/m/{verb}")
    assert (status, body["Error"]["code"], done) == (403, "permission_denied", [])
    assert mounted.asked("administrator", "POST", f"/models/m/{verb}")[3] == [(verb, "m")]


def test_the_document_names_the_prefix_that_its_paths_lie_under() -> None:
    client = TestClient(http_app(FakeRuntime()), root_path="/llm")
    assert client.get("/llm/openapi.json").json()["servers"] == [{"url": "/llm"}]
    assert "servers" not in TestClient(http_app(FakeRuntime())).get("/openapi.json").json()


def test_the_prefix_alone_is_the_root() -> None:
    assert path_of({"path": "/llm", "root_path": "/llm"}) == path_of({"path": "/"}) == "/"
    assert path_of({"path": "/llmodels", "root_path": "/llm"}) == "/llmodels"


def test_no_other_module_reads_the_path_of_a_request() -> None:
    texts = {file.name: file.read_text("utf-8") for file in (PROJECT / "serve_app" / "http").rglob("*.py")}
    assert [name for name, text in texts.items() if "url.path" in text or '["path"]' in text] == []
