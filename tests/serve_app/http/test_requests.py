"""From a body and its headers to a request: formats, forms, limits, request ids."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from deployments.contract import wire
from deployments.contract.types import ImageClassification, InferResponse, ObjectDetection, TextGeneration
from serve_app.http import requests
from tests.serve_app.http.test_app import TYPE, error_in
from tests.support.http_runtimes import REQUEST, FakeRuntime

TEXT = TextGeneration(model_id="m", prompt="p", max_tokens=5)
BOUNDARY = "multipart/form-data; boundary=y"


@pytest.mark.parametrize("media_type", wire.MEDIA_TYPES)
def test_a_request_comes_in_any_format_and_its_response_in_the_same(
    http: TestClient, runtime: FakeRuntime, media_type: str
) -> None:
    response = http.post("/infer", content=wire.encode(TEXT, media_type), headers={TYPE: media_type})
    assert runtime.asked == [TEXT]
    assert response.headers[TYPE] == media_type
    assert wire.decode(response.content, media_type, InferResponse).message == "nothing"  # type: ignore[attr-defined]


def test_accept_asks_for_another_format(http: TestClient) -> None:
    response = http.post("/infer", content=REQUEST, headers={"accept": "text/html, application/x-bincode;q=0.9"})
    assert response.headers[TYPE] == wire.BINCODE


def test_a_form_with_an_image_is_an_image_classification(http: TestClient, runtime: FakeRuntime) -> None:
    http.post("/infer", data={"model_id": "m", "top_k": "2"}, files={"image": ("cat.jpg", b"\xff\xd8")})
    assert runtime.asked == [ImageClassification(model_id="m", image_data=b"\xff\xd8", top_k=2)]


@pytest.mark.parametrize(("sent", "threshold"), [("0.25", 0.25), ("0", 0.0), ("1", 1.0)])
def test_a_form_with_a_picture_is_an_object_detection(
    http: TestClient, runtime: FakeRuntime, sent: str, threshold: float
) -> None:
    form = {"model_id": "m", "threshold": sent, "top_k": "2"}
    http.post("/infer", data=form, files={"picture": ("street.jpg", b"\xff\xd8")})
    assert runtime.asked == [ObjectDetection(model_id="m", image_data=b"\xff\xd8", threshold=threshold, top_k=2)]


def test_the_name_of_the_one_file_says_which_family_a_form_asks(http: TestClient, runtime: FakeRuntime) -> None:
    """Whatever else the form has: a text of another family's name is no file."""
    http.post("/infer", data={"model_id": "m", "image": "x"}, files={"picture": b"p"})
    http.post("/infer", data={"model_id": "m", "picture": "x"}, files={"image": b"i"})
    assert [type(asked) for asked in runtime.asked] == [ObjectDetection, ImageClassification]
    both = http.post("/infer", data={"model_id": "m"}, files={"image": b"i", "picture": b"p"})
    neither = http.post("/infer", data={"model_id": "m"}, files={"file": b"i"})
    assert both.status_code == neither.status_code == 400
    assert error_in(neither)["message"] == "the form needs a file 'image' or 'picture' or 'audio'"


@pytest.mark.parametrize("threshold", ["1.5", "-0.5", "half", "nan", "1e-1", ""])
def test_a_forms_threshold_is_a_number_from_0_to_1(http: TestClient, runtime: FakeRuntime, threshold: str) -> None:
    response = http.post("/infer", data={"model_id": "m", "threshold": threshold}, files={"picture": b"p"})
    assert response.status_code == 400
    assert "ObjectDetection.threshold" in str(error_in(response)["message"])


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"content": REQUEST, "headers": {"content-encoding": "gzip"}}, "unsupported_media_type"),
        ({"content": REQUEST, "headers": {TYPE: "application/json; charset=utf-16"}}, "unsupported_media_type"),
        ({"content": iter([b"x" * 2**19] * 3)}, "payload_too_large"),
        ({"data": {"model_id": "m"}, "files": {"other": b"x"}}, "invalid_request"),
        ({"data": {"model_id": "m"}}, "unsupported_media_type"),
        ({"content": b"--x", "headers": {TYPE: BOUNDARY}}, "invalid_request"),
    ],
)
def test_a_body_that_holds_no_request_is_refused(
    http: TestClient, runtime: FakeRuntime, options: dict[str, Any], code: str
) -> None:
    assert error_in(http.post("/infer", **options))["code"] == code
    assert runtime.asked == []


def test_a_large_body_is_decoded_as_well(
    http: TestClient, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "LARGE_BODY_BYTES", 10)
    http.post("/infer", content=REQUEST)
    assert runtime.asked == [TEXT]


@pytest.mark.parametrize("sent", ["", "x" * 200, "a b", "é".encode().decode("latin-1")])
def test_an_odd_request_id_is_replaced(http: TestClient, sent: str) -> None:
    response = http.post("/infer", content=b"{", headers=[(b"x-request-id", sent.encode("latin-1"))])
    assert len(str(error_in(response)["request_id"])) == 32


def test_a_request_id_is_kept(http: TestClient) -> None:
    response = http.post("/infer", content=b"{", headers={"x-request-id": "trace-7"})
    assert error_in(response)["request_id"] == "trace-7"


def test_the_caller_of_the_middleware_reaches_the_runtime(http: TestClient, runtime: FakeRuntime) -> None:
    http.post("/infer", content=REQUEST, headers={"x-priority": "high"})
    assert [caller.priority.name for caller in runtime.callers] == ["HIGH"]
