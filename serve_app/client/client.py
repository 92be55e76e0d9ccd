"""Clients for programs: over HTTP or a DeploymentHandle, sync and async, with the same methods.

    client = ModelRuntimeClient("http://127.0.0.1:8000")
    client.classify("image_classifier_v1", Path("photo.jpg")).class_labels[0]
    client.detect("detector", Path("photo.jpg")).boxes[0]
    client.transcribe("whisper", Path("call.mp3")).text
    client.generate("gpt-nano", "ROMEO:", max_tokens=20).generated_text
    client.embed("encoder", ["a text", "another"]).embeddings[0]

An `Error` is raised as the ServingError that its code names: `except ModelNotFound`, or `failure.code`.
"""

import functools
import os
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from deployments.contract import types
from deployments.contract.errors import Unavailable
from deployments.contract.status import ModelStatus, Plan, QuarantinedInput, Verb
from serve_app.client import bulk
from serve_app.client.blocking import Call, Portal
from serve_app.client.streaming import AsyncTextStream, TextStream
from serve_app.client.transports import HttpTransport, ServeHandleTransport, Transport, raised

File = bytes | Path
"""A file's content, or where it lies."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

DEFAULT_URL = "http://127.0.0.1:8000"


class AsyncModelRuntimeClient(AbstractAsyncContextManager["AsyncModelRuntimeClient"]):
    """`target` is the runtime's URL, or the application's handle (`serve.get_app_handle("model-runtime")`)."""

    def __init__(self, target: str | Any = DEFAULT_URL, timeout_s: float = 120, api_key: str | None = None) -> None:
        http = isinstance(target, str)
        self._transport: Transport = (
            HttpTransport(target, timeout_s, api_key) if http else ServeHandleTransport(target, timeout_s)
        )

    async def infer(self, request: types.InferRequest) -> types.InferResponse:
        """The answer to any request. Raises ServingError."""
        return raised(await self._transport.infer(request))

    async def classify(self, model_id: str, image: File, top_k: int | None = None) -> types.ImageClassificationResult:
        """The labels of a picture, most probable first: the best five, `top_k` of them, or with 0 all."""
        image_data = image.read_bytes() if isinstance(image, Path) else image
        request = types.ImageClassification(model_id=model_id, image_data=image_data, top_k=top_k)
        return _as(types.ImageClassificationResult, await self.infer(request))

    async def detect(
        self, model_id: str, image: File, threshold: float | None = None, top_k: int | None = None
    ) -> types.ObjectDetectionResult:
        """The objects in a picture, best first: those that score above `threshold` (0.5), at most `top_k` of them."""
        image_data = image.read_bytes() if isinstance(image, Path) else image
        request = types.ObjectDetection(model_id=model_id, image_data=image_data, threshold=threshold, top_k=top_k)
        return _as(types.ObjectDetectionResult, await self.infer(request))

    async def embed(self, /, model_id: str, texts: str | Sequence[str], **options: Any) -> types.TextEmbeddingResult:
        """A vector for each text, in order. `options` are TextEmbedding's: dimensions, normalize, input_type, …"""
        listed = [texts] if isinstance(texts, str) else list(texts)
        request = types.TextEmbedding(model_id=model_id, texts=listed, **options)
        return _as(types.TextEmbeddingResult, await self.infer(request))

    async def generate(
        self, /, model_id: str, prompt: str, max_tokens: int, **options: Any
    ) -> types.TextGenerationResult:
        """The prompt's continuation. `options` are TextGeneration's: temperature, top_p, stop, seed, …"""
        request = types.TextGeneration(model_id=model_id, prompt=prompt, max_tokens=max_tokens, **options)
        return _as(types.TextGenerationResult, await self.infer(request))

    async def answer(self, request: types.InferRequest) -> types.InferResponse:
        """The answer to one request among many: an `Error` is no exception, and what is refused for the moment is asked
        again. Raises Unavailable where the runtime cannot be reached."""
        return await bulk.answer(functools.partial(self._transport.infer, request))

    def map(
        self, requests: Iterable[types.InferRequest], concurrency: int = bulk.CONCURRENCY
    ) -> AsyncGenerator[types.InferResponse, None]:
        """The answers to many requests in their order, each a result or an `Error`; `concurrency` are under way.

        Requests are taken as answers are: an iterator of any length is never in memory as a whole.
        """
        return bulk.in_order(self.answer, requests, concurrency)

    def generate_stream(
        self, model_id: str, prompt: str, max_tokens: int, **options: Any
    ) -> AsyncTextStream[types.TextGenerationResult]:
        """The same as it is written: iterate over its chunks."""
        options |= {"model_id": model_id, "prompt": prompt, "max_tokens": max_tokens, "stream": True}
        request = types.TextGeneration.model_validate(options)
        return AsyncTextStream(self._transport.stream(request), types.TextGenerationResult)

    async def transcribe(self, /, model_id: str, audio: File, **options: Any) -> types.SpeechToTextResult:
        """The text of what is said in a sound file. `options` are SpeechToText's: language, task, timestamps."""
        audio_data = audio.read_bytes() if isinstance(audio, Path) else audio
        request = types.SpeechToText(model_id=model_id, audio_data=audio_data, **options)
        return _as(types.SpeechToTextResult, await self.infer(request))

    def stream(self, request: types.InferRequest) -> AsyncTextStream[Any]:
        """The answer to any request whose family streams text, and whose `stream` is true."""
        return AsyncTextStream(self._transport.stream(request), types.InferResponse)

    async def models(self) -> list[ModelStatus]:
        """Every model of the repository, and where it is in memory."""
        return await self._transport.models()

    async def warnings(self) -> list[str]:
        """What the runtime's configuration asks for and is not so, such as a model to preload that there is not."""
        return await self._transport.warnings()

    async def model(self, model_id: str) -> ModelStatus:
        """One model, or `id@version`. Raises ModelNotFound."""
        return await self._administer(Verb.SHOW, model_id)

    async def load(self, model_id: str) -> ModelStatus:
        """Loads the model into memory. Raises what a request for it would raise."""
        return await self._administer(Verb.LOAD, model_id)

    async def unload(self, model_id: str) -> ModelStatus:
        """Removes the model from memory, once its requests have ended."""
        return await self._administer(Verb.UNLOAD, model_id)

    async def pin(self, model_id: str, pinned: bool = True) -> ModelStatus:
        """Sets whether the model stays in memory once it is loaded."""
        return await self._administer(Verb.PIN if pinned else Verb.UNPIN, model_id)

    async def plan(self, model_id: str) -> list[Plan]:
        """What loading the model would take, replica by replica."""
        return _as(list, await self._transport.administer(Verb.PLAN, model_id))

    async def quarantine(self) -> list[QuarantinedInput]:
        """The inputs that are refused because replicas ended with them."""
        return await self._transport.quarantine()

    async def lift(self, digest: str) -> QuarantinedInput:
        """Has the input answered again. Raises NotFound."""
        return await self._transport.lift(digest)

    async def close(self) -> None:
        await self._transport.close()

    async def __aexit__(self, *failure: object) -> None:
        await self.close()

    async def _administer(self, verb: Verb, model_id: str) -> ModelStatus:
        return _as(ModelStatus, await self._transport.administer(verb, model_id))


def _blocking(
    method: Callable[Concatenate[AsyncModelRuntimeClient, Arguments], Awaitable[Result]],
) -> "Callable[Concatenate[ModelRuntimeClient, Arguments], Result]":
    """The method of the sync client that waits for this one."""

    @functools.wraps(method, assigned=("__module__", "__name__", "__doc__"))
    def wait(self: "ModelRuntimeClient", /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        client, portal = self._connected()
        return portal.call(functools.partial(method, client, *args, **kwargs))

    return wait


class ModelRuntimeClient(AbstractContextManager["ModelRuntimeClient"]):
    """AsyncModelRuntimeClient without the `await`. For any thread, also one in which an event loop runs, as in Jupyter.

    `target` is the runtime's URL, or the application's handle (`serve.get_app_handle("model-runtime")`).
    """

    def __init__(self, target: str | Any = DEFAULT_URL, timeout_s: float = 120, api_key: str | None = None) -> None:
        self._connect = functools.partial(AsyncModelRuntimeClient, target, timeout_s, api_key)
        self._client = self._connect()
        self._portal = Portal()

    infer = _blocking(AsyncModelRuntimeClient.infer)
    answer = _blocking(AsyncModelRuntimeClient.answer)
    classify = _blocking(AsyncModelRuntimeClient.classify)
    detect = _blocking(AsyncModelRuntimeClient.detect)
    embed = _blocking(AsyncModelRuntimeClient.embed)
    generate = _blocking(AsyncModelRuntimeClient.generate)
    transcribe = _blocking(AsyncModelRuntimeClient.transcribe)
    models = _blocking(AsyncModelRuntimeClient.models)
    warnings = _blocking(AsyncModelRuntimeClient.warnings)
    model = _blocking(AsyncModelRuntimeClient.model)
    load = _blocking(AsyncModelRuntimeClient.load)
    unload = _blocking(AsyncModelRuntimeClient.unload)
    pin = _blocking(AsyncModelRuntimeClient.pin)
    plan = _blocking(AsyncModelRuntimeClient.plan)
    quarantine = _blocking(AsyncModelRuntimeClient.quarantine)
    lift = _blocking(AsyncModelRuntimeClient.lift)

    def map(
        self, requests: Iterable[types.InferRequest], concurrency: int = bulk.CONCURRENCY
    ) -> Generator[types.InferResponse, None, None]:
        """The answers to many requests in their order, each a result or an `Error`; `concurrency` are under way.

        Requests are taken as answers are: an iterator of any length is never in memory as a whole.
        """
        client, portal = self._connected()
        window: deque[Call[types.InferResponse]] = deque()
        try:
            for request in requests:
                if len(window) >= concurrency:
                    yield window.popleft().result()
                window.append(portal.start(functools.partial(client.answer, request)))
            while window:
                yield window.popleft().result()
        finally:
            for call in window:
                call.cancel()

    def generate_stream(
        self, model_id: str, prompt: str, max_tokens: int, **options: Any
    ) -> TextStream[types.TextGenerationResult]:
        """The same as it is written: iterate over its chunks."""
        client, portal = self._connected()
        return TextStream(client.generate_stream(model_id, prompt, max_tokens, **options), portal)

    def stream(self, request: types.InferRequest) -> TextStream[Any]:
        """The answer to any request whose family streams text, and whose `stream` is true."""
        client, portal = self._connected()
        return TextStream(client.stream(request), portal)

    def close(self) -> None:
        if self._portal.is_open:
            self._portal.call(self._client.close)
            self._portal.close()

    def __exit__(self, *failure: object) -> None:
        self.close()

    def _connected(self) -> tuple[AsyncModelRuntimeClient, Portal]:
        # The connections of a forked child's parent are bound to an event loop that does not run in the child.
        if self._portal.pid != os.getpid():
            self._client, self._portal = self._connect(), Portal()
        return self._client, self._portal


def _as(kind: type[Result], response: object) -> Result:
    if not isinstance(response, kind):
        raise Unavailable(f"expected {kind.__name__}, got {type(response).__name__}")
    return response
