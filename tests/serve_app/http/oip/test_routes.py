"""The Open Inference Protocol in one process: what reaches the runtime, and what comes back."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from deployments.contract.errors import ERRORS, ServingError
from deployments.contract.types import ImageClassification, TextGeneration
from serve_app.access.api_keys import AccessSettings, KeySettings, new_key
from serve_app.access.caller import Priority
from tests.serve_app.http.oip.test_requests import LENGTH, PROMPT, image
from tests.support.http_runtimes import FakeRuntime, responding, status

TEXT = {"inputs": [PROMPT, LENGTH]}


def outputs(reply: Any) -> dict[str, object]:
    assert reply.status_code == 200, reply.text
    return {output["name"]: output["data"] for output in reply.json()["outputs"]}


def test_the_server_says_what_it_is_and_that_it_lives(http: TestClient, runtime: FakeRuntime) -> None:
    assert http.get("/v2").json()["extensions"] == ["binary_tensor_data", "schedule_policy"]
    assert (http.get("/v2/health/live").status_code, http.get("/v2/health/ready").status_code) == (200, 200)
    runtime.is_ready = False
    assert http.get("/v2/health/ready").status_code == 503


def test_a_model_says_what_it_takes_and_gives(http: TestClient) -> None:
    assert http.get("/v2/models/team/m").json() == {
        "name": "team/m",
        "versions": ["1", "2"],
        "platform": "text_generation",
        "inputs": [
            {"name": "prompt", "datatype": "BYTES", "shape": [-1]},
            {"name": "max_tokens", "datatype": "UINT32", "shape": [-1]},
        ],
        "outputs": [
            {"name": "generated_text", "datatype": "BYTES", "shape": [-1]},
            {"name": "finish_reason", "datatype": "BYTES", "shape": [-1]},
        ],
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [("team/m", 200), ("team%2Fm", 200), ("team/m/versions/1", 200), ("team/m/versions/3", 404), ("m", 404)],
)
def test_a_model_and_its_versions_are_found_by_their_names(http: TestClient, path: str, expected: int) -> None:
    assert http.get(f"/v2/models/{path}").status_code == expected
    assert http.get(f"/v2/models/{path}/ready").status_code == expected


def test_a_model_that_failed_is_not_ready(http: TestClient, runtime: FakeRuntime) -> None:
    failed = status("broken", "text_generation").model_copy(update={"state": "failed", "reason": "no weights"})
    runtime.statuses = [failed]
    reply = http.get("/v2/models/broken/ready")
    assert (reply.status_code, reply.json()["error"]) == (503, "broken is not ready: no weights")


def test_a_version_is_asked_by_the_contracts_name(http: TestClient, runtime: FakeRuntime) -> None:
    reply = http.post("/v2/models/team/m/versions/2/infer", json=TEXT | {"id": "i"})
    assert outputs(reply)["generated_text"] == ["p×5"]
    assert (reply.json()["model_name"], reply.json()["model_version"], reply.json()["id"]) == ("team/m", "2", "i")
    assert runtime.asked == [TextGeneration(model_id="team/m@2", prompt="p", max_tokens=5)]


def test_rows_are_asked_at_once_and_answered_together(http: TestClient, runtime: FakeRuntime) -> None:
    pictures = image(["YQ==", "YWI="]) | {"shape": [2]}
    reply = http.post("/v2/models/image/infer", json={"inputs": [pictures], "parameters": {"top_k": 2}})
    assert outputs(reply)["class_labels"] == ["cat", "dog", "cat", "dog"]
    assert [one.image_data for one in runtime.asked if isinstance(one, ImageClassification)] == [b"a", b"ab"]


def test_a_picture_is_sent_as_it_lies_on_disk(http: TestClient, runtime: FakeRuntime) -> None:
    headers = {"inference-header-content-length": "0"}
    reply = http.post("/v2/models/image/infer", content=b"\xff\xd8\xff", headers=headers)
    assert reply.status_code == 200
    assert runtime.asked == [ImageClassification(model_id="image", image_data=b"\xff\xd8\xff")]


def test_objects_of_several_pictures_are_one_tensor_only_where_their_number_is_one(http: TestClient) -> None:
    def ask(*pictures: str) -> Any:
        return http.post("/v2/models/detector/infer", json={"inputs": [image(pictures) | {"shape": [len(pictures)]}]})

    assert outputs(ask("YWI=", "YWI="))["scores"] == [0.5] * 4
    reply = ask("YQ==", "YWI=")
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("kind", ERRORS.values(), ids=ERRORS.keys())
def test_every_error_has_its_status(http: TestClient, runtime: FakeRuntime, kind: type[ServingError]) -> None:
    runtime.script = responding(kind("why"))
    reply = http.post("/v2/models/team/m/infer", json=TEXT)
    assert (reply.status_code, reply.json()["error"], reply.json()["code"]) == (kind.status, "why", kind.code)


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v2/models/none/infer", b"{}", "model_not_found"),
        ("/v2/models/team/m/infer", b"{}", "invalid_request"),
        ("/v2/models/team/m/infer", b"{", "invalid_request"),
        ("/v2/models/team/m/infer", b"x" * 2**21, "payload_too_large"),
        ("/v2/nothing", b"", "not_found"),
        ("/v2/health/live", b"", "method_not_allowed"),
    ],
)
def test_what_the_routes_refuse_is_an_error_of_the_protocol(
    http: TestClient, path: str, body: bytes, expected: str
) -> None:
    reply = http.post(path, content=body)
    assert (reply.status_code, reply.json()["code"]) == (ERRORS[expected].status, expected)
    assert isinstance(reply.json()["error"], str)


@pytest.mark.parametrize("length", ["-1", "x", "99999999999999", "1.5", ""])
def test_a_length_of_the_json_that_is_none_is_refused(http: TestClient, length: str) -> None:
    headers = {"inference-header-content-length": length}
    reply = http.post("/v2/models/team/m/infer", json=TEXT, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_request")


def test_parameters_set_deadline_and_priority(http: TestClient, runtime: FakeRuntime) -> None:
    parameters = {"timeout": 10_000_000, "priority": 1}
    http.post("/v2/models/team/m/infer", json=TEXT | {"parameters": parameters})
    (caller,) = runtime.callers
    assert caller.priority is Priority.HIGH
    assert caller.deadline_at is not None


def test_keys_hold(http: TestClient, runtime: FakeRuntime) -> None:
    key, sha256 = new_key()
    runtime.access.update(AccessSettings(keys={"team": KeySettings(sha256=sha256)}))
    reply = http.post("/v2/models/team/m/infer", json=TEXT)
    assert (reply.status_code, reply.json()["code"]) == (401, "unauthenticated")
    assert http.get("/v2/health/live").status_code == 200
    headers = {"authorization": f"Bearer {key}"}
    assert http.post("/v2/models/team/m/infer", json=TEXT, headers=headers).status_code == 200
    hasty = TEXT | {"parameters": {"priority": 1}}
    assert http.post("/v2/models/team/m/infer", json=hasty, headers=headers).json()["code"] == "permission_denied"
