"""The routes of the Open Inference Protocol in the OpenAPI document."""

from typing import Any

from deployments.contract.wire import JSON
from serve_app.http.openapi import MIDDLEWARE_STATUSES, MODEL_ID, STRING, answer_of, list_of, object_of, ref

Schema = dict[str, Any]


def oip_paths(schemas: Schema) -> Schema:
    """The paths below /v2. Adds their schemas to `schemas`."""
    tensor = object_of(
        {"name": STRING, "datatype": STRING, "shape": list_of(_INTEGER), "parameters": _OBJECT, "data": {}},
        "name",
        "datatype",
        "shape",
    )
    schemas["OipTensor"] = tensor
    schemas["OipFailure"] = object_of({"error": STRING}, "error")
    requested = object_of({"name": STRING, "parameters": _OBJECT}, "name")
    common: Schema = {"id": STRING, "parameters": _OBJECT}
    schemas["OipRequest"] = object_of(
        {"inputs": list_of(ref("OipTensor")), "outputs": list_of(requested), **common}, "inputs"
    )
    names: Schema = {"model_name": STRING, "model_version": STRING}
    schemas["OipResponse"] = object_of(
        {**names, **common, "outputs": list_of(ref("OipTensor"))}, "model_name", "outputs"
    )
    inputs_and_outputs = {name: list_of(ref("OipTensor")) for name in ("inputs", "outputs")}
    schemas["OipModel"] = object_of(
        {"name": STRING, "versions": list_of(STRING), "platform": STRING, **inputs_and_outputs}, "name", "platform"
    )
    paths = {
        "/v2": {"get": _operation("The server and the protocol's extensions that it has", _OBJECT)},
        "/v2/health/live": {"get": _operation("200 while the process is alive", _OBJECT)},
        "/v2/health/ready": {"get": _operation("200 once every family can answer, else 503", _OBJECT)},
    }
    for model, parameters in (
        ("/v2/models/{model_id}", [MODEL_ID]),
        ("/v2/models/{model_id}/versions/{version}", [MODEL_ID, MODEL_ID | {"name": "version"}]),
    ):
        infer = _operation("Answers a request for each row of its inputs", ref("OipResponse"), parameters)
        infer["responses"]["200"]["content"] |= {_BINARY: {}}
        infer["requestBody"] = {"required": True, "content": {JSON: {"schema": ref("OipRequest")}, _BINARY: {}}}
        paths |= {
            model: {"get": _operation("The model's inputs and outputs", ref("OipModel"), parameters)},
            f"{model}/ready": {"get": _operation("200 where the model can answer", _OBJECT, parameters)},
            f"{model}/infer": {"post": infer},
        }
    return paths


_INTEGER = {"type": "integer"}
_OBJECT = {"type": "object"}
_BINARY = "application/octet-stream"


def _operation(summary: str, schema: Schema, parameters: list[Schema] | None = None) -> Schema:
    failure = answer_of("The protocol's error", JSON, ref("OipFailure"))
    failures = {str(status): failure for status in (*MIDDLEWARE_STATUSES, 404, 415, 422, 507)}
    operation: Schema = {"summary": summary, "responses": {"200": answer_of("OK", JSON, schema)} | failures}
    return operation | ({"parameters": parameters} if parameters else {})
