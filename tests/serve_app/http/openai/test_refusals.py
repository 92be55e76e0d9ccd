"""What OpenAI's interface refuses: by its name, in OpenAI's shape, before any model is asked."""

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.support.http_app import http_app
from tests.support.parrot import Parrot

USER: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
def runtime() -> Parrot:
    return Parrot()


@pytest.fixture
def http(runtime: Parrot) -> Iterator[TestClient]:
    with TestClient(http_app(runtime), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("n", 0, "n"),
        ("n", 129, "n"),
        ("temperature", 2.1, "temperature"),
        ("temperature", "1", "temperature"),
        ("presence_penalty", 0.5, "presence_penalty"),
        ("frequency_penalty", -1, "frequency_penalty"),
        ("logit_bias", {"5": 1}, "logit_bias"),
        ("tools", [{"type": "function"}], "tools"),
        ("modalities", ["audio"], "modalities"),
        ("response_format", {"type": "xml"}, "response_format.type"),
        ("response_format", {"type": "json_schema"}, "response_format"),
        ("top_logprobs", 2, None),
        ("stream_options", {"include_usage": True}, None),
        ("messages", [], "messages"),
        ("messages", "hi", "messages"),
        ("messages", [{"role": "wizard", "content": ""}], "messages.0.role"),
        ("messages", [{"role": "user", "content": [{"type": "image_url"}]}], "messages.0.content"),
        ("nonsense", 1, "nonsense"),
    ],
)
def test_a_field_that_cannot_be_served_is_refused_by_its_name(
    http: TestClient, runtime: Parrot, field: str, value: object, param: str | None
) -> None:
    reply = http.post("/v1/chat/completions", json={"model": "m", "messages": USER} | {field: value})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["message"]
    assert runtime.asked == []


@pytest.mark.parametrize(
    "fields",
    [
        {"best_of": 2},
        {"suffix": "x"},
        {"prompt": []},
        {"prompt": ["a", 1]},
        {"prompt": [True]},
        {"prompt": [[]]},
        {"prompt": [2**32]},
        {"prompt": [1], "echo": True},
        {"echo": True, "logprobs": 1},
        {"prompt": ["a"] * 65, "n": 2},
        {"max_tokens": -1},
        {"messages": USER},
    ],
)
def test_a_completion_that_cannot_be_served_is_refused(http: TestClient, fields: dict[str, Any]) -> None:
    reply = http.post("/v1/completions", json={"model": "m", "prompt": "p"} | fields)
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'{"model":"m","prompt":"p","n":NaN}', b'{"prompt":"p"}'])
def test_a_body_that_is_no_request_is_refused(http: TestClient, body: bytes) -> None:
    reply = http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1", 404), ("POST", "/v1/nope", 404), ("GET", "/v1/completions", 405), ("DELETE", "/v1/models/m", 405)],
)
def test_routes_that_are_not_there(http: TestClient, method: str, path: str, status: int) -> None:
    reply = http.request(method, path)
    assert reply.status_code == status
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_the_openapi_document_has_what_is_honoured_and_nothing_else(http: TestClient) -> None:
    document = http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert {"prompt", "echo", "seed"} <= schemas["CompletionBody"]["properties"].keys()
    assert not {"user", "tools"} & schemas["ChatBody"]["properties"].keys()
    assert "/v1/chat/completions" in http.get("/docs").text
