"""Hooks of schemathesis: models that exist, and differences that are no failures."""

from typing import Any

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData, Failure

MODELS = {
    "ImageClassification": "image",
    "TextGeneration": "text",
    "ObjectDetection": "detector",
    "TextEmbedding": "encoder",
}


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]) -> None:
    """Half of the requests name a model that exists, and none has a deadline of a millisecond."""
    headers: dict[str, str] = dict(case.headers or {})
    deadline_ms = headers.get("x-deadline-ms", "")
    if case.headers and deadline_ms.isdecimal() and 0 < int(deadline_ms) < 10_000:
        case.headers["x-deadline-ms"] = "10000"
    for item in case.body if isinstance(case.body, list) else [case.body]:
        if isinstance(item, dict):
            _name(item, "model", "text")
            for variant, model_id in MODELS.items():
                if isinstance(fields := item.get(variant, item), dict):
                    _name(fields, "model_id", model_id)
    if case.path_parameters:
        _name(case.path_parameters, "model_id", "text")


def _name(fields: dict[str, Any], field: str, model_id: str) -> None:
    """Replaces an id of even length, the empty one among them."""
    if isinstance(given := fields.get(field), str) and len(given) % 2 == 0:
        fields[field] = model_id


@schemathesis.hook
def filter_failure(
    context: schemathesis.HookContext, failure: Failure, case: schemathesis.Case[Any], response: schemathesis.Response
) -> bool:
    """An unknown header is allowed, and every field of a form arrives as text."""
    unknown = "x-schemathesis-unknown-property" in (case.headers or {})
    form = case.media_type == "multipart/form-data"
    return not (isinstance(failure, AcceptedNegativeData) and (unknown or form))
