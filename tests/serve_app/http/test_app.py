"""The HTTP transport in one process: every failure is the union's Error, every format is spoken."""

from collections.abc import AsyncGenerator, Iterator

import pytest
from starlette.testclient import TestClient

from deployments.contract import wire
from deployments.contract.errors import ERRORS, ModelNotFound, Overloaded, ServingError
from deployments.contract.failures import error_of
from deployments.contract.status import AdminResult, ModelStatus, Verb
from deployments.contract.types import Error, ImageClassification, InferRequest, InferResponse, TextGeneration
from deployments.replica.calls import Reply
from serve_app.access.api_keys import Access, AccessSettings
from serve_app.access.caller import RequestContext
from serve_app.config.config import IngressSettings
from serve_app.http.interfaces import Asked
from tests.support.http_app import http_app

REQUEST = b'{"TextGeneration":{"model_id":"m","prompt":"p","max_tokens":5}}'


class Recording:
    """A runtime that keeps what it was asked and answers with `reply`."""

    def __init__(self) -> None:
        self.settings = IngressSettings(max_body_mb=1)
        self.access = Access(AccessSettings())
        self.asked: list[InferRequest] = []
        self.reply: InferResponse | Exception = Error(message="nothing", code="unavailable")
        self.is_ready = True
        self.administered: list[tuple[Verb, str]] = []

    async def answer(self, asked: Asked, context: RequestContext) -> InferResponse:
        try:
            if isinstance(asked, ServingError):
                raise asked
            self.asked.append(asked)
            if isinstance(self.reply, Exception):
                raise self.reply
            return self.reply
        except Exception as cause:
            return error_of(cause, context.request_id)

    async def stream(self, asked: Asked, context: RequestContext) -> AsyncGenerator[Reply, None]:
        yield await self.answer(asked, context)

    async def models(self) -> list[ModelStatus]:
        raise RuntimeError("/a/path/that/no/caller/may/see")

    async def administer(self, verb: Verb, name: str) -> AdminResult | Error:
        self.administered.append((verb, name))
        return Error.of(ModelNotFound(f"no model {name}"), "request-1")

    async def ready(self) -> bool:
        return self.is_ready

    async def metrics(self) -> str:
        return "inference_requests_total 1\n"


@pytest.fixture
def runtime() -> Recording:
    return Recording()


@pytest.fixture
def http(runtime: Recording) -> Iterator[TestClient]:
    with TestClient(http_app(runtime), raise_server_exceptions=False) as client:
        yield client


def error(reply: object) -> dict[str, object]:
    body = reply.json()  # type: ignore[attr-defined]
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
        ("GET", "/infer", {}, 405, "method_not_allowed"),
        ("DELETE", "/models", {}, 405, "method_not_allowed"),
        ("POST", "/infer", {"content": b"{"}, 400, "invalid_request"),
        (
            "POST",
            "/infer",
            {"content": REQUEST, "headers": {"content-type": "text/csv"}},
            415,
            "unsupported_media_type",
        ),
        (
            "POST",
            "/infer",
            {"content": REQUEST, "headers": {"content-encoding": "gzip"}},
            415,
            "unsupported_media_type",
        ),
        (
            "POST",
            "/infer",
            {"content": REQUEST, "headers": {"content-type": "application/json; charset=utf-16"}},
            415,
            "unsupported_media_type",
        ),
        ("POST", "/infer", {"content": b"x" * (2**20 + 1)}, 413, "payload_too_large"),
        ("POST", "/infer", {"content": iter([b"x" * 2**19] * 3)}, 413, "payload_too_large"),
        ("POST", "/infer", {"data": {"model_id": "m"}, "files": {"other": b"x"}}, 400, "invalid_request"),
        ("POST", "/infer", {"data": {"model_id": "m"}}, 415, "unsupported_media_type"),
        (
            "POST",
            "/infer",
            {"content": b"--x", "headers": {"content-type": "multipart/form-data; boundary=y"}},
            400,
            "invalid_request",
        ),
        ("GET", "/models", {}, 500, "internal"),
    ],
)
def test_every_failure_is_the_unions_error(
    http: TestClient, method: str, path: str, options: dict[str, object], status: int, code: str
) -> None:
    reply = http.request(method, path, **options)  # type: ignore[arg-type]
    assert reply.status_code == status
    assert error(reply)["code"] == code
    assert "/a/path" not in reply.text


@pytest.mark.parametrize("code", ERRORS)
def test_each_code_has_its_status(http: TestClient, runtime: Recording, code: str) -> None:
    runtime.reply = ERRORS[code]("as told")
    reply = http.post("/infer", content=REQUEST)
    assert reply.status_code == ERRORS[code].status
    assert error(reply)["code"] == code


def test_retry_after_is_told_in_whole_seconds(http: TestClient, runtime: Recording) -> None:
    runtime.reply = Overloaded("busy")
    runtime.reply.retry_after_ms = 1200
    reply = http.post("/infer", content=REQUEST)
    assert reply.headers["retry-after"] == "2"
    assert error(reply)["retry_after_ms"] == 1200


@pytest.mark.parametrize("media_type", wire.MEDIA_TYPES)
def test_the_answer_comes_in_the_requests_format(http: TestClient, media_type: str) -> None:
    body = wire.encode(TextGeneration(model_id="m", prompt="p", max_tokens=5), media_type)
    reply = http.post("/infer", content=body, headers={"content-type": media_type})
    assert reply.headers["content-type"] == media_type
    assert wire.decode(reply.content, media_type, InferResponse).message == "nothing"  # type: ignore[attr-defined]


def test_accept_asks_for_another_format(http: TestClient) -> None:
    reply = http.post("/infer", content=REQUEST, headers={"accept": "text/html, application/x-bincode;q=0.9"})
    assert reply.headers["content-type"] == wire.BINCODE


def test_a_form_is_an_image_classification(http: TestClient, runtime: Recording) -> None:
    http.post("/infer", data={"model_id": "m", "top_k": "2"}, files={"image": ("cat.jpg", b"\xff\xd8")})
    assert runtime.asked == [ImageClassification(model_id="m", image_data=b"\xff\xd8", top_k=2)]


@pytest.mark.parametrize("sent", ["", "x" * 200, "a b", "é".encode().decode("latin-1")])
def test_an_odd_request_id_is_replaced(http: TestClient, sent: str) -> None:
    reply = http.post("/infer", content=b"{", headers={"x-request-id": sent.encode("latin-1")})
    assert len(str(error(reply)["request_id"])) == 32


def test_a_request_id_is_kept(http: TestClient) -> None:
    reply = http.post("/infer", content=b"{", headers={"x-request-id": "trace-7"})
    assert error(reply)["request_id"] == "trace-7"


def test_health_readiness_and_metrics(http: TestClient, runtime: Recording) -> None:
    assert http.get("/healthz").text == "alive\n"
    assert http.get("/readyz").status_code == 200
    runtime.is_ready = False
    assert http.get("/readyz").status_code == 503
    assert http.get("/healthz").status_code == 200
    assert http.get("/metrics").text == "inference_requests_total 1\n"


def test_the_openapi_document_names_every_variant_and_status(http: TestClient) -> None:
    document = http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert {*InferRequest.variants, *InferResponse.variants} <= schemas.keys()
    assert schemas["TextGeneration"]["required"] == ["model_id", "prompt", "max_tokens"]
    answers = document["paths"]["/infer"]["post"]["responses"]
    assert {str(kind.status) for kind in ERRORS.values()} <= answers.keys()
    for path, statuses in (("/readyz", {"200", "503"}), ("/healthz", {"200"}), ("/models", set())):
        responses = document["paths"][path]["get"]["responses"]
        assert {status for status, answer in responses.items() if "text/plain" in answer["content"]} == statuses
    page = http.get("/docs").text
    assert "TextGenerationResult" in page
    assert "<script" not in page


def test_a_batch_is_answered_in_order_each_with_its_own_error(http: TestClient, runtime: Recording) -> None:
    reply = http.post("/infer/batch", content=b"[" + REQUEST + b', {"Nothing": {}}, 5, ' + REQUEST + b"]")
    assert reply.status_code == 200
    assert [answer["Error"]["code"] for answer in reply.json()] == [
        "unavailable",
        "invalid_request",
        "invalid_request",
        "unavailable",
    ]
    assert len(runtime.asked) == 2


@pytest.mark.parametrize("body", [REQUEST, b"[", b"[" + b",".join([b"0"] * 1025) + b"]"])
def test_what_is_no_batch_is_refused_whole(http: TestClient, body: bytes) -> None:
    reply = http.post("/infer/batch", content=body)
    assert reply.status_code == 400
    assert error(reply)["code"] == "invalid_request"


def test_json_lines_are_answered_line_by_line(http: TestClient) -> None:
    long = b"x" * (2**20 + 1)
    chunks = [REQUEST[:20], REQUEST[20:] + b"\n\n{}\r\n", REQUEST, b"\n" + long]
    reply = http.post("/infer/batch", content=iter(chunks), headers={"content-type": "application/x-ndjson"})
    codes = [wire.decode(line, wire.JSON, InferResponse).code for line in reply.content.splitlines()]  # type: ignore[attr-defined]
    assert codes == ["unavailable", "invalid_request", "unavailable", "payload_too_large"]


@pytest.mark.parametrize(
    ("method", "path", "verb", "name"),
    [
        ("GET", "/models/m", Verb.SHOW, "m"),
        ("GET", "/models/org/m@2", Verb.SHOW, "org/m@2"),
        ("POST", "/models/org%2Fm/load", Verb.LOAD, "org/m"),
        ("POST", "/models/m/unload", Verb.UNLOAD, "m"),
        ("POST", "/models/m/pin", Verb.PIN, "m"),
        ("POST", "/models/m/unpin", Verb.UNPIN, "m"),
        ("POST", "/models/m/plan", Verb.PLAN, "m"),
    ],
)
def test_one_model_is_administered_by_its_routes(
    http: TestClient, runtime: Recording, method: str, path: str, verb: Verb, name: str
) -> None:
    reply = http.request(method, path)
    assert runtime.administered == [(verb, name)]
    assert reply.status_code == 404
    assert error(reply)["code"] == "model_not_found"


def test_a_verb_that_is_none_is_not_for_a_model(http: TestClient, runtime: Recording) -> None:
    assert error(http.post("/models/m/explode"))["code"] == "method_not_allowed"
    assert runtime.administered == []
