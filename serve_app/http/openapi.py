"""The OpenAPI document, made from the unions, and a page that shows it without any script."""

from html import escape
from importlib.metadata import version
from typing import Any

from deployments import wire
from deployments.errors import ERRORS
from deployments.protocol import InferRequest, InferResponse, Variant
from serve_app.http.openai.document import openai_paths


def openapi_document() -> dict[str, Any]:
    """OpenAPI 3.1 for every route."""
    schemas: dict[str, Any] = {}
    for union in (InferRequest, InferResponse):
        schemas[union.__name__] = {"oneOf": [_tagged(kind, schemas) for kind in union.variants.values()]}
    statuses = sorted({kind.status for kind in ERRORS.values()})
    answers: dict[str, Any] = {"200": _answer("The variant that answers the request.")}
    answers["200"]["content"]["text/event-stream"] = {}  # where a TextGeneration says `stream`
    answers |= {str(status): _answer(_codes(status)) for status in statuses}
    content: dict[str, Any] = {kind: {"schema": _ref("InferRequest")} for kind in (wire.JSON, wire.MSGPACK)}
    content[wire.BINCODE] = {"schema": {"type": "string", "format": "binary"}}
    content["multipart/form-data"] = {"schema": _form()}
    infer = {
        "summary": "Answers one request",
        "requestBody": {"required": True, "content": content},
        "responses": answers,
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "model-runtime", "version": version("model-runtime")},
        "paths": {
            "/infer": {"post": infer},
            "/infer/batch": {"post": _batch()},
            "/models": {"get": _get("The models, their state and size", wire.JSON)},
            "/models/{model_id}": {"get": _model("One model, its versions, and every replica that has had it")},
            "/models/{model_id}/load": {"post": _model("Loads it into one replica and tries its golden examples")},
            "/models/{model_id}/unload": {"post": _model("Takes it out of memory once its requests have ended")},
            "/models/{model_id}/pin": {"post": _model("Keeps it in memory, once it is there")},
            "/models/{model_id}/unpin": {"post": _model("Lets it be evicted again")},
            "/models/{model_id}/plan": {"post": _model("What loading it would take, replica by replica")},
            "/healthz": {"get": _get("200 while the process is alive", "text/plain")},
            "/readyz": {"get": _get("200 once every family can answer, else 503", "text/plain")},
            "/metrics": {"get": _get("The metrics in Prometheus' text format", "text/plain")},
            **openai_paths(schemas),
        },
        "components": {"schemas": schemas},
    }


def openapi_page(document: dict[str, Any]) -> str:
    """The document for people: routes, then every variant with its fields."""
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
    if field.get("type") == "array":
        return f"list of {_type_of(field['items'])}"
    limits = [f"{sign} {field[key]}" for key, sign in _LIMITS.items() if key in field]
    return " ".join([str(field.get("type", "")), *limits])


_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def _tagged(kind: type[Variant], schemas: dict[str, Any]) -> dict[str, Any]:
    """serde's external tagging: an object with the variant's name as its only key."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    for name, info in kind.model_fields.items():
        if info.annotation is bytes:
            integers = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}}
            schema["properties"][name] = {"anyOf": [{"type": "string", "contentEncoding": "base64"}, integers]}
    schemas[kind.__name__] = schema
    return {
        "type": "object",
        "properties": {kind.__name__: _ref(kind.__name__)},
        "required": [kind.__name__],
        "additionalProperties": False,
    }


def _batch() -> dict[str, Any]:
    def listed(union: str) -> dict[str, Any]:
        return {wire.JSON: {"schema": {"type": "array", "items": _ref(union)}}, "application/x-ndjson": {"schema": {}}}

    return {
        "summary": "Answers a list of requests, or JSON lines, in order",
        "requestBody": {"required": True, "content": listed("InferRequest")},
        "responses": {
            "200": {"description": "An InferResponse for each request.", "content": listed("InferResponse")},
            "400": _answer(_codes(400)),
            "413": _answer(_codes(413)),
            "415": _answer(_codes(415)),
        },
    }


def _form() -> dict[str, Any]:
    image = {"type": "string", "format": "binary"}
    return {
        "type": "object",
        "properties": {"model_id": {"type": "string"}, "image": image},
        "required": ["model_id", "image"],
    }


def _codes(status: int) -> str:
    return "Error: " + ", ".join(kind.code for kind in ERRORS.values() if kind.status == status)


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(description: str) -> dict[str, Any]:
    return {"description": description, "content": {wire.JSON: {"schema": _ref("InferResponse")}}}


def _model(summary: str) -> dict[str, Any]:
    parameter = {"name": "model_id", "in": "path", "required": True, "schema": {"type": "string"}}
    failures = {str(status): _answer(_codes(status)) for status in (404, 503, 507)}
    return _get(summary, wire.JSON) | {
        "parameters": [parameter],
        "responses": {"200": {"description": "OK"}} | failures,
    }


def _get(summary: str, media_type: str) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": "OK", "content": {media_type: {}}}}}
