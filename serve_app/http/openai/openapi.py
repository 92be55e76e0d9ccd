"""OpenAI's routes in the OpenAPI document."""

from collections.abc import Iterable
from typing import Any

from serve_app.http.openai.requests import Body, ChatBody, CompletionBody

JSON = "application/json"
Schema = dict[str, Any]


def openai_paths(schemas: Schema, statuses: Iterable[int]) -> Schema:
    """The paths below /v1. Adds their schemas to `schemas`. `statuses`: of errors that are raised before the routes."""
    schemas["OpenAIFailure"] = _object(error=_object(message=_TEXT, type=_TEXT, param=_TEXT_OR_NULL, code=_TEXT))
    failures = {str(status): _answer("OpenAI's error", "OpenAIFailure") for status in (*statuses, 404, 415, 422, 507)}
    model = _object(id=_TEXT, object={"const": "model"}, created=_INTEGER, owned_by=_TEXT)
    schemas["OpenAIModel"] = model
    schemas["OpenAIModels"] = _object(object={"const": "list"}, data={"type": "array", "items": model})
    named: Schema = {"id": _TEXT, "created": _INTEGER, "model": _TEXT}
    usage = _object(prompt_tokens=_INTEGER, completion_tokens=_INTEGER, total_tokens=_INTEGER)
    ending: Schema = {"index": _INTEGER, "finish_reason": _TEXT_OR_NULL, "logprobs": {"type": ["object", "null"]}}
    text = _object(text=_TEXT, **ending)
    message = _object(message=_object(role={"const": "assistant"}, content=_TEXT), **ending)
    for name, kind, choice in (("Completion", "text_completion", text), ("Chat", "chat.completion", message)):
        choices = {"type": "array", "items": choice, "minItems": 1}
        schemas[f"OpenAI{name}"] = _object(object={"const": kind}, choices=choices, usage=usage, **named)
    parameter = {"name": "model_id", "in": "path", "required": True, "schema": _TEXT}
    completions = _post("OpenAI's completions", CompletionBody, "OpenAICompletion", schemas, failures)
    return {
        "/v1/models": {
            "get": {"summary": "The text models, as OpenAI lists them", "responses": _answers("OpenAIModels", failures)}
        },
        "/v1/models/{model_id}": {
            "get": {
                "summary": "One of them",
                "parameters": [parameter],
                "responses": _answers("OpenAIModel", failures),
            }
        },
        "/v1/completions": {"post": completions},
        "/v1/chat/completions": {"post": _post("OpenAI's chats", ChatBody, "OpenAIChat", schemas, failures)},
    }


_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_INTEGER = {"type": "integer"}


def _object(**properties: Schema) -> Schema:
    """Every property is required; others are allowed."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _answer(description: str, schema: str) -> Schema:
    return {"description": description, "content": {JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}


def _answers(schema: str, failures: Schema) -> Schema:
    return {"200": _answer("OK", schema)} | failures


def _post(summary: str, body: type[Body], answer: str, schemas: Schema, failures: Schema) -> Schema:
    schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    # Fields that are ignored or refused have no type.
    typed = ("type", "anyOf", "$ref")
    schema["properties"] = {name: field for name, field in schema["properties"].items() if any(map(field.get, typed))}
    schemas[body.__name__] = schema
    answers = _answers(answer, failures)
    answers["200"]["content"] |= {"text/event-stream": {}}  # with `stream`
    content = {JSON: {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}
    return {"summary": summary, "requestBody": {"required": True, "content": content}, "responses": answers}
