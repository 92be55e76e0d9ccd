"""The routes below /v2. A body becomes a request for each row of its inputs, all sent to the runtime at once."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.contract.errors import InvalidRequest, ModelNotFound, ServingError, Unavailable, quoted
from deployments.contract.failures import error_of
from deployments.contract.status import ModelStatus
from deployments.contract.types import Error, InferRequest, InferResponse
from serve_app.access.api_keys import Access
from serve_app.access.caller import RequestContext
from serve_app.config.config import IngressSettings
from serve_app.http.interfaces import MountedApi, Operations, Runtime
from serve_app.http.oip.openapi import oip_paths
from serve_app.http.oip.requests import Asked, Signature, asked_of
from serve_app.http.oip.responses import LENGTH_HEADER, render_error, results_response
from serve_app.http.oip.tensors import tensors_of
from serve_app.http.requests import cancel_on_disconnect, context_of, parsed, read_body

EXTENSIONS = ["binary_tensor_data", "schedule_policy"]
_MODEL = "/v2/models/{model_id:path}"
_VERSION = f"{_MODEL}/versions/{{version}}"


def oip_api(
    settings: IngressSettings,
    access: Access,
    runtime: Runtime,
    operations: Operations,
    signatures: Mapping[str, Signature],
) -> MountedApi:
    """`signatures`: by family."""
    api = _Oip(settings.max_body_bytes, access, runtime, operations, signatures)
    routes = [Route("/v2", api.server), Route("/v2/health/live", api.live), Route("/v2/health/ready", api.ready)]
    # A model's id may contain slashes: paths with more behind it are matched first.
    routes += [Route(f"{path}/infer", api.infer, methods=["POST"]) for path in (_VERSION, _MODEL)]
    routes += [Route(f"{path}/ready", api.model_ready) for path in (_VERSION, _MODEL)]
    routes += [Route(path, api.model) for path in (_VERSION, _MODEL)]
    return MountedApi("/v2", routes, render_error, oip_paths)


@dataclass
class _Oip:
    limit_bytes: int
    access: Access
    runtime: Runtime
    operations: Operations
    signatures: Mapping[str, Signature]

    async def server(self, request: Request) -> Response:
        return JSONResponse({"name": "model-runtime", "version": version("model-runtime"), "extensions": EXTENSIONS})

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        if not await self.operations.ready():
            raise Unavailable("not ready: a family has no replica that answers")
        return JSONResponse({"ready": True})

    async def model(self, request: Request) -> Response:
        name, status = await self._status(request)
        signature = self.signatures.get(status.family or "")
        inputs = [one.metadata for one in tensors_of(signature.request).values() if one.required] if signature else []
        outputs = [one.metadata for one in tensors_of(signature.result).values()] if signature else []
        return JSONResponse(
            {
                "name": name,
                "versions": [str(version) for version in status.versions],
                "platform": status.family or "",
                "inputs": inputs,
                "outputs": outputs,
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """A model that is only on disk is ready: a request loads it."""
        name, status = await self._status(request)
        if status.state == "failed":
            raise Unavailable(f"{name} is not ready: {status.reason}")
        return JSONResponse({"name": name, "ready": True})

    async def _status(self, request: Request) -> tuple[str, ModelStatus]:
        """The model's name without its version. Raises ModelNotFound."""
        model_id, wanted = request.path_params["model_id"], request.path_params.get("version")
        for status in await self.operations.models():
            if status.model_id == model_id and (wanted is None or wanted in map(str, status.versions)):
                return model_id, status
        raise ModelNotFound(f"there is no model {quoted(_name(request))}")

    async def infer(self, request: Request) -> Response:
        context = context_of(request)
        try:
            signature = await self._signature(_name(request))
            asked = await self._asked(request, signature)
            context = replace(context, caller=self.access.rescheduled(context.caller, asked.scheduling))
        except ServingError as failure:
            error = await self.runtime.answer(failure, context)
            assert isinstance(error, Error)
            return render_error(error)
        results = await cancel_on_disconnect(request, answers(self.runtime, asked.requests, context))
        if isinstance(results, Error):
            return render_error(results)
        try:
            return results_response(request.path_params["model_id"], asked, results, signature)
        except InvalidRequest as failure:
            return render_error(error_of(failure, context.request_id))

    async def _signature(self, name: str) -> Signature:
        return self.signatures[await self.operations.family(name)]

    async def _asked(self, request: Request, signature: Signature) -> Asked:
        """Raises ServingError."""
        length = request.headers.get(LENGTH_HEADER)
        if length is not None and not (length.isascii() and length.isdigit() and len(length) <= 12):
            raise InvalidRequest(f"{LENGTH_HEADER}: {quoted(length)} is no number of bytes")
        body = await read_body(request, self.limit_bytes)
        size = None if length is None else int(length)
        return await parsed(lambda body: asked_of(body, size, _name(request), signature), body)


async def answers(
    runtime: Runtime, requests: Sequence[InferRequest], context: RequestContext
) -> list[InferResponse] | Error:
    """Every result, or the first error, which cancels the other requests."""
    tasks = [asyncio.create_task(runtime.answer(one, context.of(number))) for number, one in enumerate(requests)]
    try:
        for answer in asyncio.as_completed(tasks):
            if isinstance(response := await answer, Error):
                return response
    finally:
        for task in tasks:
            task.cancel()
    return [task.result() for task in tasks]


def _name(request: Request) -> str:
    """As the contract's requests name a model: `id`, or `id@version`."""
    version = request.path_params.get("version")
    model_id: str = request.path_params["model_id"]
    return model_id if version is None else f"{model_id}@{version}"
