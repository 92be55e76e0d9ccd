"""Bodies of the protocol's responses: results as tensors, in JSON or in binary; errors. Knows no routes."""

import base64
from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from deployments.contract.errors import InvalidRequest
from deployments.contract.types import Error, InferResponse
from serve_app.http.oip.requests import Asked, Signature
from serve_app.http.oip.tensors import BYTES, Shape, Tensor, flattened, packed, tensors_of
from serve_app.http.responses import headers_of, status_of
from serve_app.http.sse import data

LENGTH_HEADER = "inference-header-content-length"


def results_response(model: str, asked: Asked, results: Sequence[InferResponse], signature: Signature) -> Response:
    """Raises InvalidRequest where the results of several requests are no tensor together."""
    head: dict[str, object] = {"model_name": model}
    if version := version_of(results):
        head["model_version"] = version
    if asked.id:
        head["id"] = asked.id
    outputs, raw = [], []
    for tensor, shape, elements in outputs_of(asked, results, signature):
        output: dict[str, object] = {"name": tensor.name, "datatype": tensor.datatype, "shape": shape}
        if asked.binary if asked.outputs is None else asked.outputs[tensor.name]:
            raw.append(packed(elements, tensor.datatype))
            output["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            output |= _in_json(tensor, elements)
        outputs.append(output)
    body = data(head | {"outputs": outputs})
    if not raw:
        return Response(body, media_type="application/json")
    headers = {LENGTH_HEADER: str(len(body))}
    return Response(b"".join([body, *raw]), headers=headers, media_type="application/octet-stream")


def version_of(results: Sequence[InferResponse]) -> str | None:
    """Of the model that answered, where it has versions."""
    served = getattr(results[0], "model_id", None)
    return served.rpartition("@")[2] if served and "@" in served else None


def outputs_of(
    asked: Asked, results: Sequence[InferResponse], signature: Signature
) -> list[tuple[Tensor, Shape, list[Any]]]:
    """The outputs that are asked for and there, with their elements. Raises InvalidRequest."""
    found = []
    for tensor in tensors_of(signature.result).values():
        values = [getattr(result, tensor.name, None) for result in results]
        wanted = asked.outputs is None or tensor.name in asked.outputs
        if wanted and not any(value is None for value in values):
            found.append((tensor, *_joined(tensor, values)))
    return found


def _joined(tensor: Tensor, values: Sequence[Any]) -> tuple[Shape, list[Any]]:
    try:
        return flattened(values, 1 + len(tensor.dims))
    except ValueError:
        why = f"{tensor.name}: the requests' results have different lengths and are no tensor together"
        raise InvalidRequest(f"{why}; send one request at a time") from None


def _in_json(tensor: Tensor, elements: Sequence[Any]) -> dict[str, object]:
    if tensor.datatype != BYTES or tensor.kind is str:
        return {"data": elements}
    return {
        "data": [base64.b64encode(one).decode() for one in elements],
        "parameters": {"content_type": "base64"},
    }


def render_error(error: Error) -> Response:
    """`error` is the text that the protocol's clients show; `code` tells apart what has one status."""
    body = {"error": error.message, "code": error.code, "request_id": error.request_id}
    return Response(data(body), status_of(error), headers_of(error), "application/json")
