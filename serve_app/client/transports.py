"""How the async client reaches the runtime: over HTTP or a DeploymentHandle. A failure raises ServingError."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Protocol
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter

from deployments.contract import wire
from deployments.contract.errors import DeadlineExceeded, ServingError, Unavailable
from deployments.contract.status import AdminResult, ModelStatus, Plan, QuarantinedInput, Verb
from deployments.contract.types import Error, InferRequest, InferResponse
from serve_app.client.streaming import Replies, replies_in

ADMINISTRATION_S = 660.0
"""For one administrative call: longer than a replica takes to load a large model."""
_PLANS = TypeAdapter(list[Plan])
_INPUT, _INPUTS = TypeAdapter(QuarantinedInput), TypeAdapter(list[QuarantinedInput])
_HEADERS = {"content-type": wire.MSGPACK, "accept": wire.MSGPACK}


class Transport(Protocol):
    async def infer(self, request: InferRequest) -> InferResponse: ...
    def stream(self, request: InferRequest) -> Replies: ...
    async def models(self) -> list[ModelStatus]: ...
    async def warnings(self) -> list[str]: ...
    async def administer(self, verb: Verb, name: str) -> AdminResult: ...
    async def quarantine(self) -> list[QuarantinedInput]: ...
    async def lift(self, digest: str) -> QuarantinedInput: ...
    async def close(self) -> None: ...


class HttpTransport:
    """MessagePack to `/infer`, server-sent events back from a stream."""

    def __init__(self, url: str, timeout_s: float, api_key: str | None) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=timeout_s, headers=bearer(api_key))

    async def infer(self, request: InferRequest) -> InferResponse:
        with _unreachable_raised():
            body = wire.encode(request, wire.MSGPACK)
            return _response_in(await self.http.post("/infer", content=body, headers=_HEADERS))

    async def stream(self, request: InferRequest) -> Replies:
        body = wire.encode(request, wire.MSGPACK)
        with _unreachable_raised():
            async with self.http.stream("POST", "/infer", content=body, headers=_HEADERS) as reply:
                if not reply.headers.get("content-type", "").startswith("text/event-stream"):
                    await reply.aread()
                    yield _response_in(reply)
                    return
                async with aclosing(replies_in(reply)) as replies:
                    async for one in replies:
                        yield one

    async def models(self) -> list[ModelStatus]:
        answer = await self._json("GET", "/models", self.http.timeout)
        return [ModelStatus.model_validate(status) for status in answer["models"]]

    async def warnings(self) -> list[str]:
        answer = await self._json("GET", "/models", self.http.timeout)
        return list(answer.get("warnings", ()))  # A runtime of an earlier version has none.

    async def administer(self, verb: Verb, name: str) -> AdminResult:
        path = f"/models/{quote(name)}"
        method, path = ("GET", path) if verb is Verb.SHOW else ("POST", f"{path}/{verb}")
        answer = await self._json(method, path, httpx.Timeout(ADMINISTRATION_S))
        return _PLANS.validate_python(answer["plans"]) if "plans" in answer else ModelStatus.model_validate(answer)

    async def quarantine(self) -> list[QuarantinedInput]:
        return _INPUTS.validate_python((await self._json("GET", "/quarantine", self.http.timeout))["inputs"])

    async def lift(self, digest: str) -> QuarantinedInput:
        path = f"/quarantine/{quote(digest, safe='')}"
        return _INPUT.validate_python(await self._json("DELETE", path, self.http.timeout))

    async def close(self) -> None:
        await self.http.aclose()

    async def _json(self, method: str, path: str, limit: httpx.Timeout) -> Any:
        with _unreachable_raised():
            reply = await self.http.request(method, path, timeout=limit)
        if reply.status_code != 200:
            raised(_response_in(reply))
        return reply.json()


class ServeHandleTransport:
    """Calls of the ingress deployment. `handle` is what `serve.get_app_handle` returns."""

    def __init__(self, handle: Any, timeout_s: float) -> None:
        self.handle = handle
        self.streaming = handle.options(stream=True)
        self.timeout_s = timeout_s

    async def infer(self, request: InferRequest) -> InferResponse:
        response: InferResponse = await _within(self.timeout_s, self.handle.infer.remote(request))
        return response

    async def stream(self, request: InferRequest) -> Replies:
        replies = self.streaming.infer_stream.remote(request)
        try:
            async for one in replies:
                yield one
        finally:
            replies.cancel()

    async def models(self) -> list[ModelStatus]:
        statuses: list[ModelStatus] = await _within(self.timeout_s, self.handle.models.remote())
        return statuses

    async def warnings(self) -> list[str]:
        warnings: list[str] = await _within(self.timeout_s, self.handle.warnings.remote())
        return warnings

    async def administer(self, verb: Verb, name: str) -> AdminResult:
        answer: AdminResult | Error = await _within(ADMINISTRATION_S, self.handle.administer.remote(verb, name))
        if isinstance(answer, Error):
            raise answer.exception()
        return answer

    async def quarantine(self) -> list[QuarantinedInput]:
        inputs: list[QuarantinedInput] = await _within(self.timeout_s, self.handle.quarantine.remote())
        return inputs

    async def lift(self, digest: str) -> QuarantinedInput:
        answer: QuarantinedInput | Error = await _within(self.timeout_s, self.handle.lift.remote(digest))
        if isinstance(answer, Error):
            raise answer.exception()
        return answer

    async def close(self) -> None:
        """A handle holds nothing that could be closed."""


def bearer(api_key: str | None) -> dict[str, str]:
    """The header that a key travels in."""
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


def raised(response: InferResponse) -> InferResponse:
    """The response, unless it is an `Error`: that is raised as the ServingError that its code names."""
    if isinstance(response, Error):
        raise response.exception()
    return response


@contextmanager
def _unreachable_raised() -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as failure:
        reason = str(failure) or type(failure).__name__
        raise Unavailable(f"the runtime cannot be reached: {reason}") from None


async def _within(timeout_s: float, response: Any) -> Any:
    try:
        async with asyncio.timeout(timeout_s):
            return await response
    except TimeoutError:
        response.cancel()
        raise DeadlineExceeded(f"no answer within {timeout_s:g} s") from None


def _response_in(reply: httpx.Response) -> InferResponse:
    try:
        return wire.decode(reply.content, reply.headers.get("content-type", "").split(";")[0], InferResponse)
    except ServingError:
        raise Unavailable(f"HTTP {reply.status_code} with a body that is no InferResponse") from None
