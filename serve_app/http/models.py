"""The routes of one model: `GET /models/{id}`, and `POST /models/{id}/load`, `/unload`, `/pin`, `/unpin`, `/plan`."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from deployments.contract import wire
from deployments.contract.status import ModelStatus, Verb
from deployments.contract.types import Error
from serve_app.http.responses import rendered
from serve_app.http.runtime import Runtime


def model_routes(runtime: Runtime) -> list[BaseRoute]:
    """Ids may hold slashes, and `id@version` names a version."""

    def doing(verb: Verb) -> Callable[[Request], Awaitable[Response]]:
        async def do(request: Request) -> Response:
            told = await runtime.administer(verb, request.path_params["model_id"])
            if isinstance(told, Error):
                return rendered(told, wire.JSON)
            if isinstance(told, ModelStatus):
                return JSONResponse(told.model_dump())
            return JSONResponse({"plans": [asdict(plan) for plan in told]})

        return do

    changing = [verb for verb in Verb if verb is not Verb.SHOW]
    return [
        *(Route(f"/models/{{model_id:path}}/{verb}", doing(verb), methods=["POST"]) for verb in changing),
        Route("/models/{model_id:path}", doing(Verb.SHOW)),
    ]
