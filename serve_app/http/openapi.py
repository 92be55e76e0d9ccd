"""The OpenAPI document, generated from the contract's unions, and an HTML page of it that runs no script."""

from collections.abc import Iterable, Sequence
from html import escape
from importlib.metadata import version
from typing import Any

from pydantic import TypeAdapter

from deployments.contract import wire
from deployments.contract.errors import ERRORS
from deployments.contract.status import ModelStatus, Plan
from deployments.contract.types import Error, InferRequest, InferResponse, Variant
from deployments.replica.family import Form
from serve_app.http.batch import MAX_ITEMS, NDJSON
from serve_app.http.interfaces import MountedApi
from serve_app.http.requests import FORM

MIDDLEWARE_STATUSES = (400, 401, 403, 405, 408, 413, 429, 431, 500, 503, 504)
"""The statuses of the errors that every route may return, because they are raised before it."""
REFERENCE = "#/components/schemas/{model}"
TEXT = "text/plain"


def openapi_document(apis: Iterable[MountedApi], forms: Sequence[Form]) -> dict[str, Any]:
    """OpenAPI 3.1 for every route, those of `apis` included."""
    schemas: dict[str, Any] = {}
    for union in (InferRequest, InferResponse):
        schemas[union.__name__] = {"oneOf": [_tagged(kind, schemas) for kind in union.variants.values()]}
    schemas["Failure"] = _tagged(Error, schemas)
    for name, described in (("ModelStatus", TypeAdapter(ModelStatus)), ("Plan", TypeAdapter(Plan))):
        schema = described.json_schema(ref_template=REFERENCE, mode="serialization")
        schemas.update(schema.pop("$defs", {}))
        schemas[name] = schema
    mounted: dict[str, Any] = {}
    for api in apis:
        mounted |= api.openapi_paths(schemas, MIDDLEWARE_STATUSES)
    return {
        "openapi": "3.1.0",
        "info": {"title": "model-runtime", "version": version("model-runtime")},
        "paths": {
            "/infer": {"post": _infer(forms)},
            "/infer/batch": {"post": _batch()},
            "/models": {"get": _get("The models, their state and size", wire.JSON, _holding("models", "ModelStatus"))},
            "/models/{model_id}": {"get": _model("One model, its versions, and every replica that has had it")},
            "/models/{model_id}/load": {"post": _model("Loads it into one replica and tries its golden examples")},
            "/models/{model_id}/unload": {"post": _model("Takes it out of memory once its requests have ended")},
            "/models/{model_id}/pin": {"post": _model("Keeps it in memory, once it is there")},
            "/models/{model_id}/unpin": {"post": _model("Lets it be evicted again")},
            "/models/{model_id}/plan": {
                "post": _model("What loading it would take, replica by replica", _holding("plans", "Plan"))
            },
            "/healthz": {"get": _get("200 while the process is alive", TEXT, _STRING)},
            "/readyz": {"get": _readyz()},
            "/metrics": {"get": _get("The metrics in Prometheus' text format", TEXT, _STRING)},
            "/openapi.json": {"get": _get("This document", wire.JSON, {"type": "object"})},
            "/docs": {"get": _get("This document as a page", "text/html", _STRING)},
            **mounted,
        },
        "components": {"schemas": schemas},
    }


def _infer(forms: Sequence[Form]) -> dict[str, Any]:
    content: dict[str, Any] = {kind: {"schema": _ref("InferRequest")} for kind in (wire.JSON, wire.MSGPACK)}
    content[wire.BINCODE] = {"schema": {"type": "string", "format": "binary"}}
    if forms:
        schemas = [_form(form) for form in forms]
        content[FORM] = {"schema": schemas[0] if len(schemas) == 1 else {"oneOf": schemas}}
    answers = _in_every_format("InferResponse") | {"text/event-stream": {}}  # With `stream`.
    statuses = sorted({kind.status for kind in ERRORS.values()})
    return {
        "summary": "Answers one request",
        "parameters": _SCHEDULING_HEADERS,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": {"description": "The variant that answers the request.", "content": answers}}
        | _failures(*statuses, content=_in_every_format("Failure")),
    }


def openapi_page(document: dict[str, Any]) -> str:
    """The document as HTML: the routes, then every variant with its fields."""
    routes = "".join(
        f"<tr><td><code>{verb.upper()} {escape(path)}</code></td><td>{escape(operation['summary'])}</td></tr>"
        for path, operations in document["paths"].items()
        for verb, operation in operations.items()
    )
    schemas = document["components"]["schemas"]
    variants = "".join(
        f"<h3>{escape(name)}</h3><p>{escape(schema.get('description', ''))}</p><table>{_rows(schema)}</table>"
        for name, schema in schemas.items()
        if "properties" in schema
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>model-runtime</title>"
        "<style>body{font:16px/1.5 system-ui;max-width:52rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse;width:100%}td{border-top:1px solid #ddd;padding:.3rem;vertical-align:top}"
        "</style><h1>model-runtime</h1>"
        f"<p><a href=openapi.json>openapi.json</a></p><table>{routes}</table>{variants}</html>"
    )


def _rows(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    return "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(_type_of(field))}</td>"
        f"<td>{'' if name in required else 'optional'}</td></tr>"
        for name, field in schema["properties"].items()
    )


def _type_of(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type_of(option) for option in field["anyOf"] if option.get("type") != "null")
    if "$ref" in field:
        return str(field["$ref"]).rsplit("/", 1)[-1]
    if "prefixItems" in field:  # a fixed array
        return f"[{', '.join(map(_type_of, field['prefixItems']))}]"
    if field.get("type") == "array":
        return f"list of {_type_of(field['items'])}"
    limits = [f"{sign} {field[key]}" for key, sign in _LIMITS.items() if key in field]
    return " ".join([str(field.get("type", "")), *limits])


_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def _tagged(kind: type[Variant], schemas: dict[str, Any]) -> dict[str, Any]:
    """serde's external tagging: an object with the variant's name as its only key."""
    schema = kind.model_json_schema(ref_template=REFERENCE)
    schemas.update(schema.pop("$defs", {}))
    for name, info in kind.model_fields.items():
        if info.annotation is bytes:
            integers = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}}
            base64 = {"type": "string", "contentEncoding": "base64", "pattern": _BASE64}
            schema["properties"][name] = {"anyOf": [base64, integers]}
    schemas[kind.__name__] = schema
    return {
        "type": "object",
        "properties": {kind.__name__: _ref(kind.__name__)},
        "required": [kind.__name__],
        "additionalProperties": False,
    }


_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_STRING = {"type": "string"}
_SCHEDULING_HEADERS = [
    {
        "name": "x-deadline-ms",
        "in": "header",
        "description": "For how long an answer is of use",
        "schema": {"type": "integer", "minimum": 1, "maximum": 10**12 - 1},
    },
    {"name": "x-priority", "in": "header", "schema": {"enum": ["high", "normal", "low"]}},
]


def _batch() -> dict[str, Any]:
    def listed(union: str) -> dict[str, Any]:
        several = {"type": "array", "items": _ref(union), "maxItems": MAX_ITEMS}
        return {wire.JSON: {"schema": several}, NDJSON: {"schema": {}}}

    return {
        "summary": "Answers a list of requests, or JSON lines, in order; what is no request gets its own Error",
        "parameters": _SCHEDULING_HEADERS,
        "requestBody": {"required": True, "content": listed("InferRequest")},
        "responses": {"200": {"description": "An InferResponse for each request.", "content": listed("InferResponse")}}
        | _failures(*MIDDLEWARE_STATUSES, 415),
    }


def _form(form: Form) -> dict[str, Any]:
    file = {"type": "string", "format": "binary"}
    integers = {name: {"type": "string", "pattern": "^[0-9]{1,9}$"} for name in form.integers}
    return {
        "type": "object",
        "properties": {"model_id": _STRING, form.file: file, **integers},
        "required": ["model_id", form.file],
    }


def _codes(status: int) -> str:
    return "Error: " + ", ".join(kind.code for kind in ERRORS.values() if kind.status == status)


def _ref(name: str) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=name)}


def _in_every_format(schema: str) -> dict[str, Any]:
    return {wire.JSON: {"schema": _ref(schema)}, wire.MSGPACK: {}, wire.BINCODE: {}}


def _failures(*statuses: int, content: dict[str, Any] | None = None) -> dict[str, Any]:
    content = content or {wire.JSON: {"schema": _ref("Failure")}}
    return {str(status): {"description": _codes(status), "content": dict(content)} for status in statuses}


def _holding(name: str, items: str) -> dict[str, Any]:
    """The schema of an object with one list."""
    return {"type": "object", "properties": {name: {"type": "array", "items": _ref(items)}}, "required": [name]}


def _model(summary: str, answer: dict[str, Any] | None = None) -> dict[str, Any]:
    parameter = {"name": "model_id", "in": "path", "required": True, "schema": _STRING}
    operation = _get(summary, wire.JSON, answer or _ref("ModelStatus"))
    return operation | {"parameters": [parameter], "responses": operation["responses"] | _failures(404, 507)}


def _readyz() -> dict[str, Any]:
    ready = _get("200 once every family can answer, else 503", TEXT, _STRING)
    ready["responses"]["503"]["content"] |= {TEXT: {"schema": _STRING}}
    return ready


def _get(summary: str, media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    answer = {"description": "OK", "content": {media_type: {"schema": schema}}}
    return {"summary": summary, "responses": {"200": answer} | _failures(*MIDDLEWARE_STATUSES)}
