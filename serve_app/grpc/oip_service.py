"""The Open Inference Protocol's RPCs, as proto/open_inference.proto has them. Tensors and models are those of /v2."""

from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from typing import Any

import grpc

from deployments.contract.errors import InvalidRequest, PayloadTooLarge, ServingError
from deployments.contract.failures import error_of
from deployments.contract.types import Error
from serve_app.access.caller import RequestContext
from serve_app.grpc.service import InferenceService, refuse
from serve_app.grpc.stubs import open_inference_pb2 as pb
from serve_app.http.oip.inference import EXTENSIONS, Inference, answers, name_of
from serve_app.http.oip.requests import Asked, Body, Input, RequestedOutput, asked_from
from serve_app.http.oip.responses import outputs_of, version_of
from serve_app.http.oip.tensors import packed

OIP_SERVICE = "inference.GRPCInferenceService"
_CONTENTS = {
    "BYTES": "bytes_contents",
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""By datatype, where its elements stand. FP16 has no place: it comes raw."""


class OipService:
    """`entrance` tells who calls, and bounds what messages take."""

    def __init__(self, inference: Inference, entrance: InferenceService) -> None:
        self.inference = inference
        self.entrance = entrance

    def handlers(self) -> Any:
        """For `add_generic_rpc_handlers`."""
        methods: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
        }
        handlers = {name: _handler(name, self._without_context(method)) for name, method in methods.items()}
        handlers["ModelInfer"] = _handler("ModelInfer", self._model_infer)
        return grpc.method_handlers_generic_handler(OIP_SERVICE, handlers)

    def _without_context(self, method: Callable[[Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def answer(request: Any, context: Any) -> Any:
            called = await self.entrance.called(context)
            try:
                return await method(request)
            except ServingError as failure:
                await refuse(context, error_of(failure, called.request_id))

        return answer

    async def _server_live(self, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=not await self.inference.operations.not_ready())

    async def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        try:
            await self.inference.model_ready(request.name, request.version or None)
        except ServingError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def _server_metadata(self, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="model-runtime", version=version("model-runtime"), extensions=EXTENSIONS)

    async def _model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        return pb.ModelMetadataResponse(**await self.inference.metadata(request.name, request.version or None))

    async def _model_infer(self, request: pb.ModelInferRequest, context: Any) -> pb.ModelInferResponse:
        called = await self.entrance.called(context)
        answer = await self._answer(request, called)
        if isinstance(answer, Error):
            await refuse(context, answer)
        assert isinstance(answer, pb.ModelInferResponse)
        return answer

    async def _answer(self, request: pb.ModelInferRequest, called: RequestContext) -> pb.ModelInferResponse | Error:
        name, size = name_of(request.model_name, request.model_version or None), request.ByteSize()
        try:
            if size > self.entrance.limit_bytes:
                raise PayloadTooLarge(f"the message is larger than {self.entrance.limit_bytes} bytes")
            signature = await self.inference.signature(name)
            with self.entrance.held(size):
                asked = asked_from(*_body(request), name, signature)
                called = self.inference.scheduled(asked, called)
                results = await answers(self.inference.runtime, asked.requests, called)
        except ServingError as failure:
            error = await self.inference.runtime.answer(failure, called)
            assert isinstance(error, Error)
            return error
        if isinstance(results, Error):
            return results
        try:
            response = _response(asked, outputs_of(asked, results, signature), bool(request.raw_input_contents))
        except InvalidRequest as failure:
            return error_of(failure, called.request_id)
        response.model_name, response.model_version = request.model_name, version_of(results) or ""
        return response


def _handler(name: str, method: Callable[[Any, Any], Awaitable[Any]]) -> Any:
    request, response = getattr(pb, f"{name}Request"), getattr(pb, f"{name}Response")
    return grpc.unary_unary_rpc_method_handler(method, request.FromString, response.SerializeToString)


def _body(request: pb.ModelInferRequest) -> tuple[Body, bytes]:
    """The request as REST has it, and the bytes of its raw inputs. Raises InvalidRequest."""
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequest(f"{len(request.inputs)} inputs with {len(raw)} raw_input_contents")
    inputs = []
    for number, given in enumerate(request.inputs):
        parameters = _parameters(given.parameters)
        if raw:
            parameters["binary_data_size"] = len(raw[number])
        contents = _CONTENTS.get(given.datatype)
        inputs.append(
            Input.model_construct(
                name=given.name,
                shape=_shape(given),
                datatype=given.datatype,
                parameters=parameters,
                data=None if raw or contents is None else list(getattr(given.contents, contents)),
            )
        )
    outputs = [RequestedOutput(name=one.name, parameters=_parameters(one.parameters)) for one in request.outputs]
    body = Body.model_construct(
        id=request.id, inputs=inputs, outputs=outputs or None, parameters=_parameters(request.parameters)
    )
    return body, b"".join(raw)


def _shape(given: pb.ModelInferRequest.InferInputTensor) -> list[int]:
    if any(size < 0 for size in given.shape):
        raise InvalidRequest(f"{given.name}: a shape has no negative sizes")
    return list(given.shape)


def _parameters(given: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    chosen = {name: one.WhichOneof("parameter_choice") for name, one in given.items()}
    return {name: getattr(given[name], choice) for name, choice in chosen.items() if choice}


def _response(asked: Asked, outputs: Any, raw: bool) -> pb.ModelInferResponse:
    """Raw where the inputs were raw."""
    response = pb.ModelInferResponse(id=asked.id)
    for tensor, shape, elements in outputs:
        output = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
        if raw:
            response.raw_output_contents.append(packed(elements, tensor.datatype))
        else:
            values = [one.encode() if isinstance(one, str) else one for one in elements]
            getattr(output.contents, _CONTENTS[tensor.datatype]).extend(values)
    return response
