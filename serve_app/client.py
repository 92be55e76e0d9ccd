"""Clients for programs: over HTTP or a DeploymentHandle, sync and async, with the same methods.

    client = ModelRuntimeClient("http://127.0.0.1:8000")
    client.classify("image_classifier_v1", Path("photo.jpg")).class_labels[0]
    client.generate("gpt-nano", "ROMEO:", max_tokens=20).generated_text

An `Error` is raised as the ServingError that its code names: `except ModelNotFound`, or `failure.code`.
"""

from contextlib import aclosing
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import httpx

from deployments import wire
from deployments.errors import ServingError, Unavailable
from deployments.protocol import (
    Error,
    ImageClassification,
    ImageClassificationResult,
    InferRequest,
    InferResponse,
    TextGeneration,
    TextGenerationResult,
)
from serve_app.status import ModelStatus
from serve_app.streams import AsyncReplies, AsyncTextStream, Replies, TextStream, async_replies_in, replies_in

Image = bytes | Path
"""An image file's content, or where it lies."""

Result = TypeVar("Result", bound=InferResponse)

DEFAULT_URL = "http://127.0.0.1:8000"
_HEADERS = {"content-type": wire.MSGPACK, "accept": wire.MSGPACK}


class ModelRuntimeClient:
    """`target` is the runtime's URL, or the application's handle (`serve.get_app_handle("model-runtime")`)."""

    def __init__(self, target: str | Any = DEFAULT_URL, timeout_s: float = 120) -> None:
        self._way: _Way = _Http(target, timeout_s) if isinstance(target, str) else _Handle(target, timeout_s)

    def infer(self, request: InferRequest) -> InferResponse:
        """The answer to any request. Raises ServingError."""
        return _raised(self._way.infer(request))

    def classify(self, model_id: str, image: Image, top_k: int | None = None) -> ImageClassificationResult:
        """The labels of a picture, most probable first: the best five, `top_k` of them, or with 0 all."""
        return _as(ImageClassificationResult, self.infer(_classification(model_id, image, top_k)))

    def generate(self, model_id: str, prompt: str, max_tokens: int, **options: Any) -> TextGenerationResult:
        """The prompt's continuation. `options` are TextGeneration's: temperature, top_p, stop, seed, …"""
        request = TextGeneration(model_id=model_id, prompt=prompt, max_tokens=max_tokens, **options)
        return _as(TextGenerationResult, self.infer(request))

    def generate_stream(self, model_id: str, prompt: str, max_tokens: int, **options: Any) -> TextStream:
        """The same as it is written: iterate over its chunks."""
        request = TextGeneration(model_id=model_id, prompt=prompt, max_tokens=max_tokens, stream=True, **options)
        return TextStream(self._way.stream(request))

    def models(self) -> list[ModelStatus]:
        """Every model of the repository, and where it is in memory."""
        return self._way.models()

    def close(self) -> None:
        self._way.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


class AsyncModelRuntimeClient:
    """ModelRuntimeClient's methods, to be awaited."""

    def __init__(self, target: str | Any = DEFAULT_URL, timeout_s: float = 120) -> None:
        self._way: _AsyncWay = _AsyncHttp(target, timeout_s) if isinstance(target, str) else _AsyncHandle(target)

    async def infer(self, request: InferRequest) -> InferResponse:
        """The answer to any request. Raises ServingError."""
        return _raised(await self._way.infer(request))

    async def classify(self, model_id: str, image: Image, top_k: int | None = None) -> ImageClassificationResult:
        """The labels of a picture, most probable first: the best five, `top_k` of them, or with 0 all."""
        return _as(ImageClassificationResult, await self.infer(_classification(model_id, image, top_k)))

    async def generate(self, model_id: str, prompt: str, max_tokens: int, **options: Any) -> TextGenerationResult:
        """The prompt's continuation. `options` are TextGeneration's: temperature, top_p, stop, seed, …"""
        request = TextGeneration(model_id=model_id, prompt=prompt, max_tokens=max_tokens, **options)
        return _as(TextGenerationResult, await self.infer(request))

    def generate_stream(self, model_id: str, prompt: str, max_tokens: int, **options: Any) -> AsyncTextStream:
        """The same as it is written: `async for` over its chunks."""
        request = TextGeneration(model_id=model_id, prompt=prompt, max_tokens=max_tokens, stream=True, **options)
        return AsyncTextStream(self._way.stream(request))

    async def models(self) -> list[ModelStatus]:
        """Every model of the repository, and where it is in memory."""
        return await self._way.models()

    async def close(self) -> None:
        await self._way.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.close()


class _Way(Protocol):
    def infer(self, request: InferRequest) -> InferResponse: ...
    def stream(self, request: InferRequest) -> Replies: ...
    def models(self) -> list[ModelStatus]: ...
    def close(self) -> None: ...


class _AsyncWay(Protocol):
    async def infer(self, request: InferRequest) -> InferResponse: ...
    def stream(self, request: InferRequest) -> AsyncReplies: ...
    async def models(self) -> list[ModelStatus]: ...
    async def close(self) -> None: ...


class _Http:
    def __init__(self, url: str, timeout_s: float) -> None:
        self.http = httpx.Client(base_url=url, timeout=timeout_s)

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

    def close(self) -> None:
        self.http.close()


class _AsyncHttp:
    def __init__(self, url: str, timeout_s: float) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=timeout_s)

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

    async def close(self) -> None:
        await self.http.aclose()


class _Handle:
    def __init__(self, handle: Any, timeout_s: float) -> None:
        self.handle = handle
        self.streaming = handle.options(stream=True)
        self.timeout_s = timeout_s

    def infer(self, request: InferRequest) -> InferResponse:
        response: InferResponse = self.handle.infer.remote(request).result(timeout_s=self.timeout_s)
        return response

    def stream(self, request: InferRequest) -> Replies:
        replies = self.streaming.infer_stream.remote(request)
        try:
            yield from replies
        finally:
            replies.cancel()

    def models(self) -> list[ModelStatus]:
        statuses: list[ModelStatus] = self.handle.models.remote().result(timeout_s=self.timeout_s)
        return statuses

    def close(self) -> None:
        """A handle holds nothing."""


class _AsyncHandle:
    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.streaming = handle.options(stream=True)

    async def infer(self, request: InferRequest) -> InferResponse:
        response: InferResponse = await self.handle.infer.remote(request)
        return response

    async def stream(self, request: InferRequest) -> AsyncReplies:
        replies = self.streaming.infer_stream.remote(request)
        try:
            async for said in replies:
                yield said
        finally:
            replies.cancel()

    async def models(self) -> list[ModelStatus]:
        statuses: list[ModelStatus] = await self.handle.models.remote()
        return statuses

    async def close(self) -> None:
        """A handle holds nothing."""


def _classification(model_id: str, image: Image, top_k: int | None) -> ImageClassification:
    image_data = image.read_bytes() if isinstance(image, Path) else image
    return ImageClassification(model_id=model_id, image_data=image_data, top_k=top_k)


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
        _raised(_answer_of(reply))
    return [ModelStatus.model_validate(status) for status in reply.json()["models"]]


def _raised(response: InferResponse) -> InferResponse:
    if isinstance(response, Error):
        raise response.exception()
    return response


def _as(kind: type[Result], response: InferResponse) -> Result:
    if not isinstance(response, kind):
        raise Unavailable(f"expected {kind.__name__}, got {type(response).__name__}")
    return response


def _unreachable(failure: httpx.TransportError) -> Unavailable:
    return Unavailable(f"the runtime cannot be reached: {failure or type(failure).__name__}")
