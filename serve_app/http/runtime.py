"""What the routes need of the ingress, and how they hand it a request."""

import re
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import NoReturn, Protocol

from starlette.datastructures import Headers
from starlette.requests import Request

from deployments.contract.status import AdminResult, ModelStatus, Verb
from deployments.contract.types import Error, InferRequest, InferResponse
from deployments.replica.calls import Reply
from serve_app.access.api_keys import Access
from serve_app.config.config import IngressSettings

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

Read = Callable[[], Awaitable[InferRequest]]
"""Gives a request, or raises why there is none: that is answered and counted as well."""

Replies = AsyncGenerator[Reply, None]


class Runtime(Protocol):
    """The ingress."""

    settings: IngressSettings
    access: Access

    async def answer(self, read: Read, request_id: str) -> InferResponse: ...
    def stream(self, read: Read, request_id: str) -> Replies: ...
    async def models(self) -> list[ModelStatus]: ...
    async def administer(self, verb: Verb, name: str) -> AdminResult | Error: ...
    async def ready(self) -> bool: ...
    async def metrics(self) -> str: ...


def giving(request: InferRequest) -> Read:
    async def read() -> InferRequest:
        return request

    return read


def raising(cause: Exception) -> Read:
    async def read() -> NoReturn:
        raise cause

    return read


def request_id_of(request: Request | Headers) -> str:
    """The sender's, where it is one; else a new one."""
    headers = request if isinstance(request, Headers) else request.headers
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
