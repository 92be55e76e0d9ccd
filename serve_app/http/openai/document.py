"""OpenAI's routes in the OpenAPI document."""

from typing import Any

from serve_app.http.openai.fields import Body, ChatBody, CompletionBody

JSON = "application/json"


def openai_paths(schemas: dict[str, Any]) -> dict[str, Any]:
    """The paths below /v1; what they refer to goes into `schemas`."""
    listing = {"responses": {"200": {"description": "OK", "content": {JSON: {}}}}}
    return {
        "/v1/models": {"get": {"summary": "The text models, as OpenAI lists them"} | listing},
        "/v1/models/{model_id}": {
            "get": {
                "summary": "One of them",
                "parameters": [{"name": "model_id", "in": "path", "required": True, "schema": {"type": "string"}}],
            }
            | listing
        },
        "/v1/completions": {"post": _post("OpenAI's completions", CompletionBody, schemas)},
        "/v1/chat/completions": {"post": _post("OpenAI's chats", ChatBody, schemas)},
    }


def _post(summary: str, body: type[Body], schemas: dict[str, Any]) -> dict[str, Any]:
    schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    # What is ignored or refused has no type.
    typed = ("type", "anyOf", "$ref")
    schema["properties"] = {name: field for name, field in schema["properties"].items() if any(map(field.get, typed))}
    schemas[body.__name__] = schema
    content = {JSON: {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}
    answer = {"description": "The answer; with `stream`, its chunks", "content": {JSON: {}, "text/event-stream": {}}}
    failure = {"description": '{"error": {message, type, param, code}}', "content": {JSON: {}}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": answer, "default": failure},
    }
