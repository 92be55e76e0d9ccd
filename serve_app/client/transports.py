"""How a client reaches the runtime: over HTTP or a DeploymentHandle, sync and async. What fails raises ServingError."""

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter

from deployments.contract import wire
from deployments.contract.errors import DeadlineExceeded, ServingError, Unavailable
from deployments.contract.status import AdminResult, ModelStatus, Plan, Verb
from deployments.contract.types import Error, InferRequest, InferResponse
from serve_app.client.streaming import AsyncReplies, Replies, async_replies_in, replies_in

ADMINISTRATION_S = 660.0
"""Loading a large model takes its time."""
_PLANS = TypeAdapter(list[Plan])
_HEADERS = {"content-type": wire.MSGPACK, "accept": wire.MSGPACK}


class Way(Protocol):
    def infer(self, request: InferRequest) -> InferResponse: ...
    def stream(self, request: InferRequest) -> Replies: ...
    def models(self) -> list[ModelStatus]: ...
    def administer(self, verb: Verb, name: str) -> AdminResult: ...
    def close(self) -> None: ...


class AsyncWay(Protocol):
    async def infer(self, request: InferRequest) -> InferResponse: ...
    def stream(self, request: InferRequest) -> AsyncReplies: ...
    async def models(self) -> list[ModelStatus]: ...
    async def administer(self, verb: Verb, name: str) -> AdminResult: ...
    async def close(self) -> None: ...


def key_in(file: Path | None) -> str | None:
    """The API key that a file holds."""
    return file.read_text("utf-8").strip() if file else None


def bearer(api_key: str | None) -> dict[str, str]:
    """The header that a key travels in."""
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


class OverHttp:
    def __init__(self, url: str, timeout_s: float, api_key: str | None) -> None:
        self.http = httpx.Client(base_url=url, timeout=timeout_s, headers=bearer(api_key))

    def infer(self, request: InferRequest) -> InferResponse:
        try:
            return _answer_of(self.http.post("/infer", content=wire.encode(request, wire.MSGPACK), headers=_HEADERS))
        except httpx.TransportError as failure:
            raise _unreachable(failure) from None

    def stream(self, request: InferRequest) -> Replies:
        body = wire.encode(request, wire.MSGPACK)
        try:
            with self.http.stream("POST", "/infer", content=body, headers=_HEADERS) as reply:
                if _is_stream(reply):
                    yield from replies_in(reply)
                else:
                    reply.read()
                    yield _answer_of(reply)
        except httpx.TransportError as failure:
            raise _unreachable(failure) from None

    def models(self) -> list[ModelStatus]:
        try:
            return _statuses_of(self.http.get("/models"))
        except httpx.TransportError as failure:
            raise _unreachable(failure) from None

    def administer(self, verb: Verb, name: str) -> AdminResult:
        try:
            return _told(self.http.request(*_route(verb, name), timeout=ADMINISTRATION_S))
        except httpx.TransportError as failure:
            raise _unreachable(failure) from None

    def close(self) -> None:
        self.http.close()


class AsyncOverHttp:
    def __init__(self, url: str, timeout_s: float, api_key: str | None) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=timeout_s, headers=bearer(api_key))

    async def infer(self, request: InferRequest) -> InferResponse:
        body = wire.encode(request, wire.MSGPACK)
        try:
            return _answer_of(await self.http.post("/infer", content=body, headers=_HEADERS))
        except httpx.TransportError as failure:
            raise _unreachable(failure) from None

    async def stream(self, request: InferRequest) -> AsyncReplies:
        body = wire.encode(request, wire.MSGPACK)
        try:
            async with self.http.stream("POST", "/infer", content=body, headers=_HEADERS) as reply:
                if _is_stream(reply):
                    async with aclosing(async_replies_in(reply)) as replies:
                        async for said in replies:
                            yield said
                else:
                    await reply.aread()
                    yield _answer_of(reply)
        except httpx.TransportError as failure:
            raise _unreachable(failure) from None

    async def models(self) -> list[ModelStatus]:
        try:
            return _statuses_of(await self.http.get("/models"))
        except httpx.TransportError as failure:
            raise _unreachable(failure) from None

    async def administer(self, verb: Verb, name: str) -> AdminResult:
        try:
            return _told(await self.http.request(*_route(verb, name), timeout=ADMINISTRATION_S))
        except httpx.TransportError as failure:
            raise _unreachable(failure) from None

    async def close(self) -> None:
        await self.http.aclose()


class OverHandle:
    def __init__(self, handle: Any, timeout_s: float) -> None:
        self.handle = handle
        self.streaming = handle.options(stream=True)
        self.timeout_s = timeout_s

    def infer(self, request: InferRequest) -> InferResponse:
        response: InferResponse = _within(self.timeout_s, self.handle.infer.remote(request))
        return response

    def stream(self, request: InferRequest) -> Replies:
        replies = self.streaming.infer_stream.remote(request)
        try:
            yield from replies
        finally:
            replies.cancel()

    def models(self) -> list[ModelStatus]:
        statuses: list[ModelStatus] = _within(self.timeout_s, self.handle.models.remote())
        return statuses

    def administer(self, verb: Verb, name: str) -> AdminResult:
        answer: AdminResult | Error = _within(ADMINISTRATION_S, self.handle.administer.remote(verb, name))
        return _not_error(answer)

    def close(self) -> None:
        """A handle holds nothing."""


class AsyncOverHandle:
    def __init__(self, handle: Any, timeout_s: float) -> None:
        self.handle = handle
        self.streaming = handle.options(stream=True)
        self.timeout_s = timeout_s

    async def infer(self, request: InferRequest) -> InferResponse:
        response: InferResponse = await _async_within(self.timeout_s, self.handle.infer.remote(request))
        return response

    async def stream(self, request: InferRequest) -> AsyncReplies:
        replies = self.streaming.infer_stream.remote(request)
        try:
            async for said in replies:
                yield said
        finally:
            replies.cancel()

    async def models(self) -> list[ModelStatus]:
        statuses: list[ModelStatus] = await _async_within(self.timeout_s, self.handle.models.remote())
        return statuses

    async def administer(self, verb: Verb, name: str) -> AdminResult:
        answer: AdminResult | Error = await _async_within(ADMINISTRATION_S, self.handle.administer.remote(verb, name))
        return _not_error(answer)

    async def close(self) -> None:
        """A handle holds nothing."""


def _within(timeout_s: float, response: Any) -> Any:
    try:
        return response.result(timeout_s=timeout_s)
    except TimeoutError:
        response.cancel()
        raise DeadlineExceeded(f"no answer within {timeout_s:g} s") from None


async def _async_within(timeout_s: float, response: Any) -> Any:
    try:
        async with asyncio.timeout(timeout_s):
            return await response
    except TimeoutError:
        response.cancel()
        raise DeadlineExceeded(f"no answer within {timeout_s:g} s") from None


def _is_stream(reply: httpx.Response) -> bool:
    content_type: str = reply.headers.get("content-type", "")
    return content_type.startswith("text/event-stream")


def _answer_of(reply: httpx.Response) -> InferResponse:
    try:
        return wire.decode(reply.content, reply.headers.get("content-type", "").split(";")[0], InferResponse)
    except ServingError:
        raise Unavailable(f"HTTP {reply.status_code} with a body that is no InferResponse") from None


def _statuses_of(reply: httpx.Response) -> list[ModelStatus]:
    if reply.status_code != 200:
        raised(_answer_of(reply))
    return [ModelStatus.model_validate(status) for status in reply.json()["models"]]


def _route(verb: Verb, name: str) -> tuple[str, str]:
    place = f"/models/{quote(name)}"
    return ("GET", place) if verb is Verb.SHOW else ("POST", f"{place}/{verb}")


def _told(reply: httpx.Response) -> AdminResult:
    if reply.status_code != 200:
        raised(_answer_of(reply))
    told = reply.json()
    return _PLANS.validate_python(told["plans"]) if "plans" in told else ModelStatus.model_validate(told)


def _not_error(answer: AdminResult | Error) -> AdminResult:
    if isinstance(answer, Error):
        raise answer.exception()
    return answer


def _unreachable(failure: httpx.TransportError) -> Unavailable:
    return Unavailable(f"the runtime cannot be reached: {failure or type(failure).__name__}")


def raised(response: InferResponse) -> InferResponse:
    if isinstance(response, Error):
        raise response.exception()
    return response
