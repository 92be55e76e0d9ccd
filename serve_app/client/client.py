"""Clients for programs: over HTTP or a DeploymentHandle, sync and async, with the same methods.

    client = ModelRuntimeClient("http://127.0.0.1:8000")
    client.classify("image_classifier_v1", Path("photo.jpg")).class_labels[0]
    client.generate("gpt-nano", "ROMEO:", max_tokens=20).generated_text

An `Error` is raised as the ServingError that its code names: `except ModelNotFound`, or `failure.code`.
"""

from pathlib import Path
from typing import Any, Self, TypeVar

from deployments.contract.errors import Unavailable
from deployments.contract.status import ModelStatus, Plan, Verb
from deployments.contract.types import (
    ImageClassification,
    ImageClassificationResult,
    InferRequest,
    InferResponse,
    TextGeneration,
    TextGenerationResult,
)
from serve_app.client.streaming import AsyncTextStream, TextStream
from serve_app.client.transports import AsyncOverHandle, AsyncOverHttp, AsyncWay, OverHandle, OverHttp, Way, raised

Image = bytes | Path
"""An image file's content, or where it lies."""

Result = TypeVar("Result")

DEFAULT_URL = "http://127.0.0.1:8000"


class ModelRuntimeClient:
    """`target` is the runtime's URL, or the application's handle (`serve.get_app_handle("model-runtime")`)."""

    def __init__(self, target: str | Any = DEFAULT_URL, timeout_s: float = 120, api_key: str | None = None) -> None:
        http = isinstance(target, str)
        self._way: Way = OverHttp(target, timeout_s, api_key) if http else OverHandle(target, timeout_s)

    def infer(self, request: InferRequest) -> InferResponse:
        """The answer to any request. Raises ServingError."""
        return raised(self._way.infer(request))

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

    def model(self, model_id: str) -> ModelStatus:
        """One model, or `id@version`. Raises ModelNotFound."""
        return _as(ModelStatus, self._way.administer(Verb.SHOW, model_id))

    def load(self, model_id: str) -> ModelStatus:
        """Into memory. Raises what a request for it would raise."""
        return _as(ModelStatus, self._way.administer(Verb.LOAD, model_id))

    def unload(self, model_id: str) -> ModelStatus:
        """Out of memory, once its requests have ended."""
        return _as(ModelStatus, self._way.administer(Verb.UNLOAD, model_id))

    def pin(self, model_id: str, pinned: bool = True) -> ModelStatus:
        """Whether it stays in memory, once it is there."""
        return _as(ModelStatus, self._way.administer(Verb.PIN if pinned else Verb.UNPIN, model_id))

    def plan(self, model_id: str) -> list[Plan]:
        """What loading it would take, replica by replica."""
        return _as(list, self._way.administer(Verb.PLAN, model_id))

    def close(self) -> None:
        self._way.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


class AsyncModelRuntimeClient:
    """ModelRuntimeClient's methods, to be awaited."""

    def __init__(self, target: str | Any = DEFAULT_URL, timeout_s: float = 120, api_key: str | None = None) -> None:
        http = isinstance(target, str)
        self._way: AsyncWay = AsyncOverHttp(target, timeout_s, api_key) if http else AsyncOverHandle(target, timeout_s)

    async def infer(self, request: InferRequest) -> InferResponse:
        """The answer to any request. Raises ServingError."""
        return raised(await self._way.infer(request))

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

    async def model(self, model_id: str) -> ModelStatus:
        """One model, or `id@version`. Raises ModelNotFound."""
        return _as(ModelStatus, await self._way.administer(Verb.SHOW, model_id))

    async def load(self, model_id: str) -> ModelStatus:
        """Into memory. Raises what a request for it would raise."""
        return _as(ModelStatus, await self._way.administer(Verb.LOAD, model_id))

    async def unload(self, model_id: str) -> ModelStatus:
        """Out of memory, once its requests have ended."""
        return _as(ModelStatus, await self._way.administer(Verb.UNLOAD, model_id))

    async def pin(self, model_id: str, pinned: bool = True) -> ModelStatus:
        """Whether it stays in memory, once it is there."""
        return _as(ModelStatus, await self._way.administer(Verb.PIN if pinned else Verb.UNPIN, model_id))

    async def plan(self, model_id: str) -> list[Plan]:
        """What loading it would take, replica by replica."""
        return _as(list, await self._way.administer(Verb.PLAN, model_id))

    async def close(self) -> None:
        await self._way.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.close()


def _classification(model_id: str, image: Image, top_k: int | None) -> ImageClassification:
    image_data = image.read_bytes() if isinstance(image, Path) else image
    return ImageClassification(model_id=model_id, image_data=image_data, top_k=top_k)


def _as(kind: type[Result], response: object) -> Result:
    if not isinstance(response, kind):
        raise Unavailable(f"expected {kind.__name__}, got {type(response).__name__}")
    return response
