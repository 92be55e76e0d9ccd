"""The OpenAPI document, generated from the contract's unions."""

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from deployments.contract import wire
from deployments.contract.errors import ERRORS
from deployments.contract.status import AnsweredRequest, ModelStatus, Plan, QuarantinedInput
from deployments.contract.types import InferRequest, InferResponse
from deployments.replica.family import Form
from serve_app.access.caller import DEADLINE_HEADER, PRIORITY_HEADER
from serve_app.http.batch import MAX_ITEMS, NDJSON
from serve_app.http.interfaces import MountedApi
from serve_app.http.requests import FORM

MIDDLEWARE_STATUSES = (400, 401, 403, 405, 408, 413, 429, 431, 500, 503, 504)
"""The statuses of the errors that every route may return, because they are raised before it."""
REFERENCE = "#/components/schemas/{model}"
TEXT = "text/plain"


def openapi_document(apis: Iterable[MountedApi], forms: Sequence[Form]) -> dict[str, Any]:
    """OpenAPI 3.1 for every route, those of `apis` included."""
    schemas = _schemas()
    paths = {
        "/infer": {"post": _infer(forms)},
        "/infer/batch": {"post": _batch()},
        "/models": {"get": _get("The models, their state and size", wire.JSON, _MODELS)},
        "/models/{model_id}": {"get": _model("One model, its versions, and every replica that has had it")},
        "/models/{model_id}/load": {"post": _model("Loads it into one replica and tries its golden examples")},
        "/models/{model_id}/unload": {"post": _model("Takes it out of memory once its requests have ended")},
        "/models/{model_id}/pin": {"post": _model("Keeps it in memory, once it is there")},
        "/models/{model_id}/unpin": {"post": _model("Lets it be evicted again")},
        "/models/{model_id}/plan": {"post": _model("What loading it would take, replica by replica", _PLANS)},
        "/quarantine": {"get": _get("The inputs that are refused because replicas end with them", wire.JSON, _INPUTS)},
        "/quarantine/{digest}": {"delete": _lift()},
        "/healthz": {"get": _get("200 while the process is alive", TEXT, STRING)},
        "/health": {"get": _get("The same as /healthz", TEXT, STRING)},
        "/readyz": {"get": _get("200 once every family can answer, else 503", TEXT, STRING)},
        "/requests/{request_id}": {"get": _answered_request()},
        "/metrics": {"get": _get("The metrics in Prometheus' text format", TEXT, STRING)},
        "/openapi.json": {"get": _get("This document", wire.JSON, {"type": "object"})},
        "/docs": {"get": _get("This document as a page to try it on: Swagger UI", "text/html", STRING)},
    }
    paths["/readyz"]["get"]["responses"]["503"]["content"][TEXT] = {"schema": STRING}
    for api in apis:
        paths |= api.openapi_paths(schemas)
    info = {"title": "model-runtime", "version": version("model-runtime")}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


def _schemas() -> dict[str, Any]:
    """Of the unions, of their variants and of the models' statuses."""
    variants = InferRequest.variants | InferResponse.variants
    described: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [
        *((name, "validation", TypeAdapter(kind)) for name, kind in variants.items()),
        *((kind.__name__, "serialization", TypeAdapter(kind)) for kind in _STATUSES),
    ]
    _, document = TypeAdapter.json_schemas(described, ref_template=REFERENCE)
    schemas: dict[str, Any] = document["$defs"]
    for kind in variants.values():
        for name, field in kind.model_fields.items():
            if field.annotation is bytes:
                schemas[kind.__name__]["properties"][name] = {"anyOf": [_BASE64, _BYTES]}
    for union in (InferRequest, InferResponse):
        schemas[union.__name__] = {"oneOf": [_tagged(name) for name in union.variants]}
    return schemas | {"Failure": _tagged("Error")}


def _infer(forms: Sequence[Form]) -> dict[str, Any]:
    content: dict[str, Any] = {kind: {"schema": ref("InferRequest")} for kind in (wire.JSON, wire.MSGPACK)}
    content[wire.BINCODE] = {"schema": _BINARY}
    if forms:
        schemas = [_form(form) for form in forms]
        content[FORM] = {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}
    failures = failures_of(*sorted({kind.status for kind in ERRORS.values()}))
    for failure in failures.values():
        failure["content"] |= {wire.MSGPACK: {}, wire.BINCODE: {}}
    answer = answer_of("The variant that answers the request.", wire.JSON, ref("InferResponse"))
    answer["content"] |= {wire.MSGPACK: {}, wire.BINCODE: {}, "text/event-stream": {}}  # the last with `stream`
    return {
        "summary": "Answers one request",
        "parameters": _SCHEDULING_HEADERS,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": answer} | failures,
    }


def _tagged(name: str) -> dict[str, Any]:
    """serde's external tagging: an object with the variant's name as its only key."""
    return object_of({name: ref(name)}, name) | {"additionalProperties": False}


def object_of(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


_SIX_BITS = "[A-Za-z0-9+/_-]"
_BASE64 = {
    "type": "string",
    "contentEncoding": "base64",
    "pattern": f"^(data:[^,]*;base64,)?({_SIX_BITS}{{4}})*({_SIX_BITS}{{2}}(==)?|{_SIX_BITS}{{3}}=?)?$",
    "description": "In either alphabet, padded or not, in a `data:` URL or not; white space is left out.",
}
_BYTES = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}}
_BINARY = {"type": "string", "format": "binary"}
_FRACTION = r"^(0(\.[0-9]{1,9})?|1(\.0{1,9})?)$"
STRING = {"type": "string"}
_DEADLINE = {"type": "integer", "minimum": 1, "maximum": 10**12 - 1}
_SCHEDULING_HEADERS = [
    {"name": DEADLINE_HEADER, "in": "header", "schema": _DEADLINE, "description": "For how long an answer is of use"},
    {"name": PRIORITY_HEADER, "in": "header", "schema": {"enum": ["high", "normal", "low"]}},
]
MODEL_ID = {"name": "model_id", "in": "path", "required": True, "schema": STRING}
"""The parameter of a path."""


def _batch() -> dict[str, Any]:
    def listed(union: str) -> dict[str, Any]:
        return {wire.JSON: {"schema": list_of(ref(union), maxItems=MAX_ITEMS)}, NDJSON: {"schema": {}}}

    answer = {"description": "An InferResponse for each request.", "content": listed("InferResponse")}
    return {
        "summary": "Answers a list of requests, or JSON lines, in order; what is no request gets its own Error",
        "parameters": _SCHEDULING_HEADERS,
        "requestBody": {"required": True, "content": listed("InferRequest")},
        "responses": {"200": answer} | failures_of(*MIDDLEWARE_STATUSES, 415),
    }


def _form(form: Form) -> dict[str, Any]:
    integers = {name: {"type": "string", "pattern": "^[0-9]{1,9}$"} for name in form.integers}
    fractions = {name: {"type": "string", "pattern": _FRACTION} for name in form.fractions}
    return object_of({"model_id": STRING, form.file: _BINARY, **integers, **fractions}, "model_id", form.file)


def list_of(items: dict[str, Any], **limits: int) -> dict[str, Any]:
    return {"type": "array", "items": items, **limits}


def ref(name: str) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=name)}


def failures_of(*statuses: int) -> dict[str, Any]:
    def codes(status: int) -> str:
        return ", ".join(kind.code for kind in ERRORS.values() if kind.status == status)

    return {str(status): answer_of(f"Error: {codes(status)}", wire.JSON, ref("Failure")) for status in statuses}


def answer_of(description: str, media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": schema}}}


_MODELS = object_of({"models": list_of(ref("ModelStatus")), "warnings": list_of(STRING)}, "models", "warnings")
_STATUSES = (ModelStatus, Plan, AnsweredRequest, QuarantinedInput)
_INPUTS = object_of({"inputs": list_of(ref("QuarantinedInput"))}, "inputs")
_PLANS = object_of({"plans": list_of(ref("Plan"))}, "plans")


def _model(summary: str, answer: dict[str, Any] | None = None) -> dict[str, Any]:
    operation = _get(summary, wire.JSON, answer or ref("ModelStatus"))
    return operation | {"parameters": [MODEL_ID], "responses": operation["responses"] | failures_of(404, 507)}


def _answered_request() -> dict[str, Any]:
    operation = _get("What became of a recent request, by its x-request-id", wire.JSON, ref("AnsweredRequest"))
    parameter = MODEL_ID | {"name": "request_id"}
    return operation | {"parameters": [parameter], "responses": operation["responses"] | failures_of(404)}


def _lift() -> dict[str, Any]:
    operation = _get("Takes an input again", wire.JSON, ref("QuarantinedInput"))
    parameter = MODEL_ID | {"name": "digest"}
    return operation | {"parameters": [parameter], "responses": operation["responses"] | failures_of(404)}


def _get(summary: str, media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    answers = {"200": answer_of("OK", media_type, schema)} | failures_of(*MIDDLEWARE_STATUSES)
    return {"summary": summary, "responses": answers}
