"""OpenAI's routes in the OpenAPI document."""

from typing import Any

from deployments.contract.wire import JSON
from serve_app.http.openai.audio import AUDIO_FORM
from serve_app.http.openai.chat import ChatBody
from serve_app.http.openai.embeddings import EmbeddingBody
from serve_app.http.openai.fields import HINTS, OFF
from serve_app.http.openai.requests import CompletionBody, RequestBody
from serve_app.http.openai.response_body import ResponseBody
from serve_app.http.openapi import MIDDLEWARE_STATUSES, MODEL_ID, REFERENCE, STRING, answer_of, list_of, object_of, ref
from serve_app.http.requests import FORM

Schema = dict[str, Any]


def openai_paths(schemas: Schema) -> Schema:
    """The paths below /v1. Adds their schemas to `schemas`."""
    model = _object(id=STRING, object={"const": "model"}, created=_INTEGER, owned_by=STRING)
    schemas["OpenAIFailure"] = _object(error=_object(message=STRING, type=STRING, param=_OR_NULL, code=STRING))
    model["properties"]["max_model_len"] = _INTEGER  # where config.json says it
    schemas["OpenAIModel"] = model
    schemas["OpenAIModels"] = _object(object={"const": "list"}, data=list_of(model))
    named: Schema = {"id": STRING, "created": _INTEGER, "model": STRING}
    usage = _object(completion_tokens=_INTEGER, **_USAGE)
    ending: Schema = {"index": _INTEGER, "finish_reason": _OR_NULL, "logprobs": {"type": ["object", "null"]}}
    text = _object(text=STRING, **ending)
    message = _object(message=_object(role={"const": "assistant"}, content=STRING), **ending)
    for name, kind, choice in (("Completion", "text_completion", text), ("Chat", "chat.completion", message)):
        choices = list_of(choice, minItems=1)
        schemas[f"OpenAI{name}"] = _object(object={"const": kind}, choices=choices, usage=usage, **named)
    response = _object(object={"const": "response"}, id=STRING, model=STRING, status=STRING, output=list_of({}))
    schemas["OpenAIResponse"] = response
    vector = _object(object={"const": "embedding"}, index=_INTEGER, embedding={"type": ["array", "string"]})
    vectors = _object(object={"const": "list"}, data=list_of(vector), model=STRING, usage=_object(**_USAGE))
    schemas["OpenAIEmbeddings"] = vectors
    embeddings = _post("OpenAI's embeddings", EmbeddingBody, "OpenAIEmbeddings", schemas, streams=False)
    schemas["OpenAITranscription"] = _object(text=STRING)
    listed = {"summary": "The models of texts, as OpenAI lists them", "responses": _answers("OpenAIModels")}
    one = {"summary": "One of them", "parameters": [MODEL_ID], "responses": _answers("OpenAIModel")}
    return {
        "/v1/models": {"get": listed},
        "/v1/models/{model_id}": {"get": one},
        "/v1/completions": {"post": _post("OpenAI's completions", CompletionBody, "OpenAICompletion", schemas)},
        "/v1/responses": {"post": _post("OpenAI's responses", ResponseBody, "OpenAIResponse", schemas)},
        "/v1/embeddings": {"post": embeddings},
        "/v1/audio/transcriptions": {"post": _audio("OpenAI's transcriptions")},
        "/v1/audio/translations": {"post": _audio("OpenAI's translations of speech into English")},
        "/v1/chat/completions": {"post": _post("OpenAI's chats", ChatBody, "OpenAIChat", schemas)},
    }


_OR_NULL = {"type": ["string", "null"]}
_INTEGER = {"type": "integer"}
_USAGE = {"prompt_tokens": _INTEGER, "total_tokens": _INTEGER}


def _object(**properties: Schema) -> Schema:
    """Every property is required; others are allowed."""
    return object_of(properties, *properties)


def _answers(schema: str) -> Schema:
    failure = answer_of("OpenAI's error", JSON, ref("OpenAIFailure"))
    failures = {str(status): failure for status in (*MIDDLEWARE_STATUSES, 404, 415, 422, 507)}
    return {"200": answer_of("OK", JSON, ref(schema))} | failures


def _audio(summary: str) -> Schema:
    answers = _answers("OpenAITranscription")
    answers["200"]["content"] |= {"text/plain": {"schema": STRING}, "text/event-stream": {}}
    content = {FORM: {"schema": AUDIO_FORM}}
    return {"summary": summary, "requestBody": {"required": True, "content": content}, "responses": answers}


def _post(summary: str, body: type[RequestBody], answer: str, schemas: Schema, streams: bool = True) -> Schema:
    schema = body.model_json_schema(ref_template=REFERENCE)
    schemas.update(schema.pop("$defs", {}))
    fields = schema["properties"]
    for name in fields.keys() & OFF.keys():
        fields[name] = {"anyOf": [fields[name], {"enum": [value for value, _ in OFF[name]]}]}
    fields |= {name: {"enum": [*values, None]} for name, values in body.unsupported.items()}
    fields |= {name: {} for name in sorted(HINTS)}
    schema["additionalProperties"] = {"type": "null"}
    schemas[body.__name__] = schema
    answers = _answers(answer)
    if streams:
        answers["200"]["content"] |= {"text/event-stream": {}}  # with `stream`
    content = {JSON: {"schema": ref(body.__name__)}}
    return {"summary": summary, "requestBody": {"required": True, "content": content}, "responses": answers}
