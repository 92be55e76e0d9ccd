"""The pages for browsers: what is served, to whom, and that nothing in it leads elsewhere."""

import json
import re
from html import unescape
from urllib.parse import urljoin

import pytest
from starlette.testclient import TestClient

from serve_app.access.api_keys import AccessSettings, KeySettings, new_key
from serve_app.config.config import IngressSettings
from serve_app.http.home.routes import STATIC
from tests.support.http_runtimes import FakeRuntime, http_app

KEY, SHA256 = new_key()
LINK = re.compile(r"""(?:href|src)="([^"]+)"|from "(\./[^"]+)\"""")


def client(home_page: bool | None = None, keys: bool = False, prefix: str = "") -> TestClient:
    runtime = FakeRuntime()
    runtime.settings = IngressSettings(home_page=home_page)
    runtime.access.update(AccessSettings(keys={"team": KeySettings(sha256=SHA256)} if keys else {}))
    return TestClient(http_app(runtime), raise_server_exceptions=False, root_path=prefix)


@pytest.mark.parametrize(
    ("home_page", "keys", "status"),
    [(None, False, 200), (None, True, 404), (True, True, 200), (False, False, 404)],
)
def test_the_home_page_is_there_where_no_keys_are_unless_a_setting_says_otherwise(
    home_page: bool | None, keys: bool, status: int
) -> None:
    assert client(home_page, keys).get("/").status_code == status


def test_the_home_page_knows_each_familys_request_and_form() -> None:
    told = re.search(r'data-families="([^"]+)"', client().get("/").text)
    assert told
    families = {family["name"]: family for family in json.loads(unescape(told[1]))}
    assert families["text_generation"] == {"name": "text_generation", "request": "TextGeneration", "form": None}
    assert families["image_classification"]["form"] == {"file": "image", "field": "image_data"}


def test_with_keys_the_pages_are_open_and_what_they_show_is_not() -> None:
    keyed = client(home_page=True, keys=True)
    for path in ("/", "/docs", "/home/home.js", "/docs/swagger/swagger-ui.css"):
        assert keyed.get(path).status_code == 200, path
    for path in ("/models", "/metrics", "/openapi.json"):
        assert keyed.get(path).status_code == 401, path


@pytest.mark.parametrize("prefix", ["", "/llm"])
@pytest.mark.parametrize("page", ["/", "/docs"])
def test_every_file_that_a_page_names_is_served_below_a_prefix_too(page: str, prefix: str) -> None:
    http = client(prefix=prefix)
    text = http.get(f"{prefix}{page}").text
    assert f'<base href="{prefix}/">' in text
    for link, _ in LINK.findall(text):
        if link != "metrics":
            assert http.get(urljoin(f"{prefix}/", link)).status_code == 200, link


def test_scripts_import_files_that_are_there() -> None:
    for script in STATIC.glob("*.js"):
        for _, imported in LINK.findall(script.read_text("utf-8")):
            assert (STATIC / imported).is_file(), f"{script.name} imports {imported}"


def test_no_file_names_another_host() -> None:
    for file in STATIC.iterdir():
        named = re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}", file.read_text("utf-8"))
        assert set(named) <= {"http://www.w3.org"}, file.name  # SVG's namespace


@pytest.mark.parametrize("path", ["/", "/docs", "/home/home.js", "/docs/swagger/swagger-ui-bundle.js"])
def test_browsers_are_told_to_ask_this_runtime_alone(path: str) -> None:
    policy = client().get(path).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?:|\*", policy)


@pytest.mark.parametrize(
    "path", ["/home/", "/home/nope.js", "/home/..%2froutes.py", "/home/%2e%2e/routes.py", "/docs/"]
)
def test_what_is_no_file_of_a_page_is_not_found(path: str) -> None:
    response = client().get(path)
    assert response.status_code == 404
    assert response.json()["Error"]["code"] == "not_found"
