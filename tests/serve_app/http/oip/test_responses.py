"""Results as tensors, and errors, in the protocol's shapes."""

import json

import pytest

from deployments.contract.errors import InvalidRequest, Overloaded
from deployments.contract.types import Error, ObjectDetectionResult, TextGenerationResult
from serve_app.http.oip.requests import Asked
from serve_app.http.oip.responses import LENGTH_HEADER, render_error, results_response
from tests.serve_app.http.oip.test_requests import OBJECTS, TEXT

HEY = TextGenerationResult(generated_text="hey", model_id="m@2", finish_reason="stop")
TWO = ObjectDetectionResult(class_labels=["cat", "dog"], scores=[0.5, 0.25], boxes=[(0, 1, 2, 3), (4, 5, 6, 7)])


def test_the_fields_of_a_result_are_outputs() -> None:
    response = results_response("m", Asked((), id="7"), [HEY], TEXT)
    assert LENGTH_HEADER not in response.headers
    assert json.loads(bytes(response.body)) == {
        "model_name": "m",
        "model_version": "2",
        "id": "7",
        "outputs": [
            {"name": "generated_text", "datatype": "BYTES", "shape": [1], "data": ["hey"]},
            {"name": "finish_reason", "datatype": "BYTES", "shape": [1], "data": ["stop"]},
        ],
    }


def test_a_box_adds_a_dimension_of_four() -> None:
    outputs = json.loads(bytes(results_response("m", Asked(()), [TWO], OBJECTS).body))["outputs"]
    assert [(one["name"], one["shape"]) for one in outputs] == [
        ("class_labels", [1, 2]),
        ("scores", [1, 2]),
        ("boxes", [1, 2, 4]),
    ]
    assert outputs[2]["data"] == [0, 1, 2, 3, 4, 5, 6, 7]


def test_binary_outputs_follow_the_json() -> None:
    asked = Asked((), outputs={"generated_text": True, "finish_reason": False})
    response = results_response("m", asked, [HEY, HEY], TEXT)
    head, raw = (
        response.body[: int(response.headers[LENGTH_HEADER])],
        response.body[int(response.headers[LENGTH_HEADER]) :],
    )
    outputs = json.loads(bytes(head))["outputs"]
    assert outputs[0] == {
        "name": "generated_text",
        "datatype": "BYTES",
        "shape": [2],
        "parameters": {"binary_data_size": 14},
    }
    assert outputs[1]["data"] == ["stop", "stop"]
    assert bytes(raw) == b"\x03\0\0\0hey" * 2


def test_only_the_outputs_that_are_named_come() -> None:
    body = json.loads(bytes(results_response("m", Asked((), outputs={"generated_text": False}), [HEY], TEXT).body))
    assert [output["name"] for output in body["outputs"]] == ["generated_text"]


def test_results_of_different_lengths_are_refused_with_what_to_do() -> None:
    one = ObjectDetectionResult(class_labels=["cat"], scores=[0.5], boxes=[(0, 1, 2, 3)])
    with pytest.raises(InvalidRequest, match="one request at a time"):
        results_response("m", Asked(()), [TWO, one], OBJECTS)


def test_an_error_is_a_text_with_the_contracts_status_and_headers() -> None:
    response = render_error(Error.of(Overloaded("too much"), "r-1"))
    assert json.loads(bytes(response.body)) == {"error": "too much", "code": "overloaded", "request_id": "r-1"}
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
