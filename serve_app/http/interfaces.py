"""What the HTTP routes need from outside, and how another protocol adds its routes. Types only."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.responses import Response
from starlette.routing import BaseRoute

from deployments.contract.errors import ServingError
from deployments.contract.status import AdminResult, AnsweredRequest, ModelStatus, QuarantinedInput, Verb
from deployments.contract.types import Error, InferRequest, InferResponse
from deployments.replica.calls import Reply
from serve_app.access.caller import RequestContext

Asked = InferRequest | ServingError
"""A request, or the reason why the body holds none: the runtime answers and counts both."""

ErrorRenderer = Callable[[Error], Response]


class Runtime(Protocol):
    """Answers inference requests. Neither method raises."""

    async def answer(self, asked: Asked, context: RequestContext) -> InferResponse: ...
    def stream(self, asked: Asked, context: RequestContext) -> AsyncGenerator[Reply, None]: ...


class Operations(Protocol):
    """What the routes beside inference show and change."""

    async def models(self) -> list[ModelStatus]: ...
    async def family(self, model_id: str) -> str: ...
    async def warnings(self) -> list[str]: ...
    async def administer(self, verb: Verb, name: str) -> AdminResult | Error: ...
    async def answered(self, request_id: str) -> AnsweredRequest | None: ...
    async def quarantine(self) -> list[QuarantinedInput]: ...
    async def lift(self, digest: str) -> QuarantinedInput | Error: ...
    async def not_ready(self) -> list[str]:
        """What a request might have to wait for, a line each."""

    async def metrics(self, openmetrics: bool = False) -> str: ...


@dataclass(frozen=True, slots=True)
class MountedApi:
    """Another protocol's routes below `prefix`."""

    prefix: str
    routes: Sequence[BaseRoute]
    render_error: ErrorRenderer
    openapi_paths: Callable[[dict[str, Any]], dict[str, Any]]
    """Returns its paths, and adds their schemas to the argument."""
