"""A runtime without models for tests of HTTP, and the HTTP application around it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Protocol

from starlette.applications import Starlette

from deployments.contract.chunk import Chunk
from deployments.contract.errors import ModelNotFound, NotFound, ServingError, quoted
from deployments.contract.failures import error_of
from deployments.contract.status import AdminResult, AnsweredRequest, ModelStatus, QuarantinedInput, Verb
from deployments.contract.text_generation import Alternative, TokenLogprob, Usage
from deployments.contract.types import Error, InferRequest, InferResponse, TextGeneration, TextGenerationResult
from deployments.families.table import FAMILIES
from deployments.replica.calls import Reply
from serve_app.access.api_keys import Access, AccessSettings
from serve_app.access.caller import Caller, RequestContext
from serve_app.config.config import IngressSettings
from serve_app.http.app import build_http_app
from serve_app.http.interfaces import Asked, Operations, Runtime
from serve_app.http.oip.requests import Signature
from serve_app.http.oip.routes import oip_api
from serve_app.http.openai.routes import openai_api

SIGNATURES = {family.name: Signature(family.request, family.result) for family in FAMILIES}
REQUEST = b'{"TextGeneration":{"model_id":"m","prompt":"p","max_tokens":5}}'
LOGPROBS = (
    TokenLogprob(
        token="he", logprob=-0.5, utf8=[104, 101], top=[Alternative(token="hi", logprob=-0.4, utf8=[104, 105])]
    ),
    TokenLogprob(token="y", logprob=-1.5, utf8=[121], top=[Alternative(token="y", logprob=-1.5, utf8=[121])]),
)

Script = Callable[[InferRequest], AsyncGenerator[Reply, None]]
"""The replies to a request. What it raises is answered as an Error."""


class WholeRuntime(Runtime, Operations, Protocol):
    settings: IngressSettings
    access: Access


def http_app(runtime: WholeRuntime) -> Starlette:
    """As the ingress builds it."""
    oip = oip_api(runtime.settings, runtime.access, runtime, runtime, SIGNATURES)
    apis = (openai_api(runtime.settings, runtime, runtime), oip)
    forms = [family.form for family in FAMILIES if family.form]
    families = {family.name: family.request for family in FAMILIES}
    return build_http_app(runtime.settings, runtime.access, runtime, runtime, apis, forms, families)


def responding(response: InferResponse | Exception) -> Script:
    """One response to every request."""

    async def script(request: InferRequest) -> AsyncGenerator[Reply, None]:
        if isinstance(response, Exception):
            raise response
        yield response

    return script


def saying_hey(fails_before: ServingError | None = None, fails_after: ServingError | None = None) -> Script:
    """The text "hey" in two chunks. May fail before the first chunk, or after it."""

    async def script(request: InferRequest) -> AsyncGenerator[Reply, None]:
        assert isinstance(request, TextGeneration)
        if fails_before:
            raise fails_before
        logprobs = LOGPROBS if request.logprobs is not None else ()
        yield Chunk("he", 1, logprobs[:1])
        if fails_after:
            raise fails_after
        yield Chunk("y", 2, logprobs[1:])
        yield TextGenerationResult(
            generated_text="hey",
            model_id="m@1",
            finish_reason="stop",
            usage=Usage(prompt_tokens=3, completion_tokens=2),
            logprobs=list(LOGPROBS) if request.logprobs is not None else None,
        )

    return script


class FakeRuntime:
    """Keeps the requests that it gets, and answers them by its script."""

    def __init__(self, script: Script | None = None) -> None:
        self.settings = IngressSettings(max_body_mb=1)
        self.access = Access(AccessSettings())
        self.script = script or responding(Error(message="nothing", code="unavailable"))
        self.asked: list[InferRequest] = []
        self.callers: list[Caller] = []
        self.left_open: list[Mapping[str, object]] = []
        self.traceparents: list[str] = []
        self.under_way = 0
        self.begun, self.ended = asyncio.Event(), asyncio.Event()
        """Of any request."""
        self.statuses: list[ModelStatus] | Exception = []
        self.warned: list[str] = []
        self.administered: list[tuple[Verb, str]] = []
        self.refused: dict[str, QuarantinedInput] = {}
        self.is_ready = True
        self.recent: dict[str, AnsweredRequest] = {}

    @property
    def texts(self) -> list[TextGeneration]:
        return [request for request in self.asked if isinstance(request, TextGeneration)]

    async def answer(self, asked: Asked, context: RequestContext) -> InferResponse:
        async with aclosing(self.stream(asked, context)) as replies:
            *_, response = [reply async for reply in replies]
        assert isinstance(response, InferResponse)
        return response

    async def stream(self, asked: Asked, context: RequestContext) -> AsyncGenerator[Reply, None]:
        self.under_way += 1
        self.callers.append(context.caller)
        self.left_open.append(context.left_open)
        self.traceparents.append(context.traceparent)
        try:
            if isinstance(asked, ServingError):
                raise asked
            self.asked.append(asked)
            self.begun.set()
            async with aclosing(self.script(asked)) as replies:
                async for reply in replies:
                    yield reply
        except Exception as cause:
            yield error_of(cause, context.request_id)
        finally:
            self.under_way -= 1
            self.ended.set()

    async def models(self) -> list[ModelStatus]:
        if isinstance(self.statuses, Exception):
            raise self.statuses
        return self.statuses

    async def family(self, model_id: str) -> str:
        for one in await self.models():
            if one.family and model_id in (one.model_id, *(f"{one.model_id}@{version}" for version in one.versions)):
                return one.family
        raise ModelNotFound(f"no model {quoted(model_id)}")

    async def warnings(self) -> list[str]:
        return self.warned

    async def administer(self, verb: Verb, name: str) -> AdminResult | Error:
        self.administered.append((verb, name))
        return Error.of(ModelNotFound(f"there is no model {quoted(name)}"), "request-1")

    async def quarantine(self) -> list[QuarantinedInput]:
        return list(self.refused.values())

    async def lift(self, digest: str) -> QuarantinedInput | Error:
        return self.refused.pop(digest, None) or Error.of(NotFound("no such input"), "request-1")

    async def answered(self, request_id: str) -> AnsweredRequest | None:
        return self.recent.get(request_id)

    async def not_ready(self) -> list[str]:
        return [] if self.is_ready else ["text_generation has no replica that answers"]

    async def metrics(self, openmetrics: bool = False) -> str:
        return "inference_requests_total 1\n" + "# EOF\n" * openmetrics


def status(model_id: str, family: str, versions: list[int] | None = None) -> ModelStatus:
    """Of a model that is ready in no replica."""
    return ModelStatus(
        model_id=model_id,
        version=versions[-1] if versions else None,
        versions=versions or [],
        family=family,
        state="available",
        reason=None,
        pinned=False,
        declared_bytes=0,
        resident_bytes=[],
        loads=0,
        evictions=0,
        last_use=None,
        replicas=[],
        notes=[],
    )
