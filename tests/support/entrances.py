"""Every way into the runtime, as functions of one shape."""

import asyncio
import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import grpc
import httpx

from deployments.contract import wire
from deployments.contract.errors import ERRORS, ServingError
from deployments.contract.types import Error, InferRequest, InferResponse
from deployments.families.table import FAMILIES
from deployments.replica.family import Family
from serve_app.client import AsyncModelRuntimeClient, ModelRuntimeClient
from serve_app.grpc.messages import from_message, to_message
from serve_app.grpc.service import ERROR_DETAILS
from serve_app.grpc.stubs import inference_pb2 as pb
from serve_app.grpc.stubs.inference_pb2_grpc import InferenceStub
from serve_app.http.oip.responses import LENGTH_HEADER
from serve_app.http.oip.tensors import flattened, nested, packed, tensors_of, unpacked
from tests.support.echo import ECHO
from tests.support.running import Running

Entrance = Callable[[Running, InferRequest], InferResponse]


def over_http(media_type: str) -> Entrance:
    def infer(runtime: Running, request: InferRequest) -> InferResponse:
        headers = {"content-type": media_type}
        reply = httpx.post(
            f"{runtime.url}/infer", content=wire.encode(request, media_type), headers=headers, timeout=60
        )
        answer = wire.decode(reply.content, media_type, InferResponse)
        if media_type != wire.BINCODE:  # which has no room for the code
            expected = ERRORS[answer.code or ""].status if isinstance(answer, Error) else 200
            assert reply.status_code == expected
        return answer

    return infer


def v2_request(request: InferRequest, binary: bool) -> tuple[str, bytes, dict[str, str]]:
    """Path, body and headers: the request's fields as inputs of one row, its options as parameters."""
    family = family_of(request)
    fields = request.model_dump(exclude_none=True, exclude={"model_id"})
    inputs, raw = [], b""
    for tensor in tensors_of(type(request)).values():
        if tensor.required:
            shape, elements = flattened([fields.pop(tensor.name)], 1 + len(tensor.dims))
            given: dict[str, object] = {"name": tensor.name, "datatype": tensor.datatype, "shape": shape}
            if binary:
                part = packed(elements, tensor.datatype)
                given["parameters"] = {"binary_data_size": len(part)}
                raw += part
            else:
                given["data"] = [b64encode(one).decode() if isinstance(one, bytes) else one for one in elements]
            inputs.append(given)
    body = json.dumps({"inputs": inputs, "parameters": fields | {"binary_data_output": binary}}).encode()
    name = request.model_id if family.matches else family.name
    headers = {LENGTH_HEADER: str(len(body))} if binary else {}
    return f"/v2/models/{quote(name, safe='')}/infer", body + raw, headers


def v2_answer(request: InferRequest, reply: httpx.Response) -> InferResponse:
    if reply.status_code != 200:
        error = reply.json()
        assert reply.status_code == ERRORS[error["code"]].status
        return Error(message=error["error"], code=error["code"], request_id=error["request_id"])
    result = family_of(request).result
    size = int(reply.headers.get(LENGTH_HEADER, len(reply.content)))
    head, raw = json.loads(reply.content[:size]), reply.content[size:]
    fields: dict[str, Any] = {}
    for output in head["outputs"]:
        tensor = tensors_of(result)[output["name"]]
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            elements = output["data"]
        else:
            part, raw = raw[:size], raw[size:]
            elements = [one.decode() if tensor.kind is str else one for one in unpacked(part, output["datatype"])]
        (fields[tensor.name],) = nested(elements, tuple(output["shape"]))
    return wire.from_object({result.__name__: fields}, InferResponse)


def family_of(request: InferRequest) -> Family:
    return next(one for one in (*FAMILIES, ECHO) if one.request is type(request))


def over_v2(binary: bool) -> Entrance:
    """The Open Inference Protocol."""

    def infer(runtime: Running, request: InferRequest) -> InferResponse:
        path, body, headers = v2_request(request, binary)
        return v2_answer(request, httpx.post(runtime.url + path, content=body, headers=headers, timeout=60))

    return infer


def grpc_error(failure: Any) -> Error:
    """What a failed RPC says, of either kind of channel."""
    details = dict(failure.trailing_metadata())[ERROR_DETAILS]
    error = from_message(pb.InferResponse(error=pb.Error.FromString(details)), InferResponse)
    assert isinstance(error, Error)
    assert (failure.code().name, failure.details()) == (ERRORS[error.code or ""].grpc, error.message)
    return error


def over_grpc(runtime: Running, request: InferRequest) -> InferResponse:
    with grpc.insecure_channel(runtime.config.grpc_address) as channel:
        stub = InferenceStub(channel)  # type: ignore[no-untyped-call]
        try:
            return from_message(stub.Infer(to_message(request, pb.InferRequest()), timeout=60), InferResponse)
        except grpc.RpcError as failure:
            return grpc_error(failure)


def over_the_handle(runtime: Running, request: InferRequest) -> InferResponse:
    response: InferResponse = runtime.handle.infer.remote(request).result(timeout_s=60)
    return response


def with_the_client(target: str) -> Entrance:
    def infer(runtime: Running, request: InferRequest) -> InferResponse:
        with ModelRuntimeClient(getattr(runtime, target)) as client:
            return raising(lambda: client.infer(request))

    return infer


def with_the_async_client(target: str) -> Entrance:
    def infer(runtime: Running, request: InferRequest) -> InferResponse:
        async def ask() -> InferResponse:
            async with AsyncModelRuntimeClient(getattr(runtime, target)) as client:
                return await client.infer(request)

        return raising(lambda: asyncio.run(ask()))

    return infer


def raising(ask: Callable[[], InferResponse]) -> InferResponse:
    try:
        return ask()
    except ServingError as failure:
        return Error.of(failure)


ENTRANCES: dict[str, Entrance] = {
    "json": over_http(wire.JSON),
    "bincode": over_http(wire.BINCODE),
    "msgpack": over_http(wire.MSGPACK),
    "v2": over_v2(binary=False),
    "v2-binary": over_v2(binary=True),
    "grpc": over_grpc,
    "handle": over_the_handle,
    "client": with_the_client("url"),
    "client-on-handle": with_the_client("handle"),
    "async-client": with_the_async_client("url"),
    "async-client-on-handle": with_the_async_client("handle"),
}
