"""The routes below /v2. A body becomes a request for each row of its inputs, all sent to the runtime at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.contract.errors import InvalidRequest, ServingError, quoted
from deployments.contract.failures import error_of
from deployments.contract.types import Error
from serve_app.access.api_keys import Access
from serve_app.config.config import IngressSettings
from serve_app.http.interfaces import MountedApi, Operations, Runtime
from serve_app.http.oip.inference import EXTENSIONS, Inference, answers, name_of
from serve_app.http.oip.openapi import oip_paths
from serve_app.http.oip.requests import Asked, Signature, asked_of
from serve_app.http.oip.responses import LENGTH_HEADER, render_error, results_response
from serve_app.http.requests import cancel_on_disconnect, context_of, parsed, read_body

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
    api = _Oip(settings.max_body_bytes, Inference(access, runtime, operations, signatures))
    routes = [Route("/v2", api.server), Route("/v2/health/live", api.live), Route("/v2/health/ready", api.ready)]
    # A model's id may contain slashes: paths with more behind it are matched first.
    routes += [Route(f"{path}/infer", api.infer, methods=["POST"]) for path in (_VERSION, _MODEL)]
    routes += [Route(f"{path}/ready", api.model_ready) for path in (_VERSION, _MODEL)]
    routes += [Route(path, api.model) for path in (_VERSION, _MODEL)]
    return MountedApi("/v2", routes, render_error, oip_paths)


@dataclass
class _Oip:
    limit_bytes: int
    inference: Inference

    async def server(self, request: Request) -> Response:
        named = {"name": "model-runtime", "version": version("model-runtime")}
        return JSONResponse(named | {"extensions": list(EXTENSIONS)})

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        await self.inference.ready()
        return JSONResponse({"ready": True})

    async def model(self, request: Request) -> Response:
        return JSONResponse(await self.inference.metadata(*_named(request)))

    async def model_ready(self, request: Request) -> Response:
        await self.inference.model_ready(*_named(request))
        return JSONResponse({"name": request.path_params["model_id"], "ready": True})

    async def infer(self, request: Request) -> Response:
        context, name = context_of(request), name_of(*_named(request))
        try:
            signature = await self.inference.signature(name)
            asked = await self._asked(request, name, signature)
            context = self.inference.scheduled(asked, context)
        except ServingError as failure:
            error = await self.inference.runtime.answer(failure, context)
            assert isinstance(error, Error)
            return render_error(error)
        results = await cancel_on_disconnect(request, answers(self.inference.runtime, asked.requests, context))
        if isinstance(results, Error):
            return render_error(results)
        try:
            return results_response(request.path_params["model_id"], asked, results, signature)
        except InvalidRequest as failure:
            return render_error(error_of(failure, context.request_id))

    async def _asked(self, request: Request, name: str, signature: Signature) -> Asked:
        """Raises ServingError."""
        length = request.headers.get(LENGTH_HEADER)
        if length is not None and not (length.isascii() and length.isdigit() and len(length) <= 12):
            raise InvalidRequest(f"{LENGTH_HEADER}: {quoted(length)} is no number of bytes")
        body = await read_body(request, self.limit_bytes)
        size = None if length is None else int(length)
        return await parsed(lambda body: asked_of(body, size, name, signature), body)


def _named(request: Request) -> tuple[str, str | None]:
    return request.path_params["model_id"], request.path_params.get("version")
