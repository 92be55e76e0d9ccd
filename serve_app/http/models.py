"""The routes that show and change models, `/models`, `/models/{id}`, `POST /models/{id}/load`, `/pin` and so on, and
those that show and lift the quarantine of inputs."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from deployments.contract import wire
from deployments.contract.status import ModelStatus, Verb
from deployments.contract.types import Error
from serve_app.access.api_keys import QUARANTINE_PATH
from serve_app.http.interfaces import Operations
from serve_app.http.responses import rendered


def model_routes(operations: Operations) -> list[BaseRoute]:
    """Model ids may contain slashes; `id@version` names a version."""

    async def models(request: Request) -> Response:
        statuses = [status.model_dump() for status in await operations.models()]
        return JSONResponse({"models": statuses, "warnings": await operations.warnings()})

    def route_of(verb: Verb) -> Callable[[Request], Awaitable[Response]]:
        async def administer(request: Request) -> Response:
            result = await operations.administer(verb, request.path_params["model_id"])
            if isinstance(result, Error):
                return rendered(result, wire.JSON)
            if isinstance(result, ModelStatus):
                return JSONResponse(result.model_dump())
            return JSONResponse({"plans": [asdict(plan) for plan in result]})

        return administer

    async def quarantine(request: Request) -> Response:
        return JSONResponse({"inputs": [asdict(one) for one in await operations.quarantine()]})

    async def lift(request: Request) -> Response:
        lifted = await operations.lift(request.path_params["digest"])
        return rendered(lifted, wire.JSON) if isinstance(lifted, Error) else JSONResponse(asdict(lifted))

    changing = [verb for verb in Verb if verb is not Verb.SHOW]
    return [
        Route("/models", models),
        *(Route(f"/models/{{model_id:path}}/{verb}", route_of(verb), methods=["POST"]) for verb in changing),
        Route("/models/{model_id:path}", route_of(Verb.SHOW)),
        Route(QUARANTINE_PATH, quarantine),
        Route(f"{QUARANTINE_PATH}/{{digest}}", lift, methods=["DELETE"]),
    ]
