"""The HTTP application without Ray: both middlewares under uvicorn, as in Serve, and a runtime that answers at once.

python -m tests.hostile.server PORT SOCKET
"""

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator

import uvicorn
from ray.serve._private.http_util import RequestIdMiddleware
from starlette.types import ASGIApp

from deployments.contract.chunk import Chunk
from deployments.contract.status import ModelStatus
from deployments.contract.types import (
    ImageClassification,
    ImageClassificationResult,
    InferRequest,
    ObjectDetection,
    ObjectDetectionResult,
    TextEmbedding,
    TextEmbeddingResult,
    TextGeneration,
    TextGenerationResult,
)
from deployments.replica.calls import Reply
from serve_app.config.config import IngressSettings
from serve_app.http.middleware import ControlHeaderFilter
from tests.support.http_runtimes import FakeRuntime, http_app

ENDLESS = "endless"
"""A model whose requests never end."""


class AtOnce(FakeRuntime):
    """Answers every request that can be decoded. Its metrics are counts of the requests that reached it."""

    def __init__(self) -> None:
        super().__init__(_at_once)
        self.listed = 0
        """Requests for the list of models."""
        self.settings = IngressSettings(max_body_mb=1, max_held_mb=64)

    async def models(self) -> list[ModelStatus]:
        self.listed += 1
        return []

    async def metrics(self, openmetrics: bool = False) -> str:
        self.asked.clear()
        self.callers.clear()
        return f"under_way {self.under_way}\nlisted {self.listed}\n"


async def _at_once(request: InferRequest) -> AsyncGenerator[Reply, None]:
    if request.model_id == ENDLESS:
        await asyncio.Event().wait()
    if isinstance(request, ImageClassification):
        yield ImageClassificationResult(class_labels=["cat"], probabilities=[1.0], model_id=request.model_id)
        return
    if isinstance(request, ObjectDetection):
        yield ObjectDetectionResult(class_labels=["cat"], scores=[1.0], boxes=[(0, 0, 1, 1)], model_id=request.model_id)
        return
    if isinstance(request, TextEmbedding):
        yield TextEmbeddingResult(embeddings=[[1.0]] * len(request.texts), model_id=request.model_id)
        return
    assert isinstance(request, TextGeneration)
    if request.stream:
        yield Chunk("a", 1)
    yield TextGenerationResult(generated_text=request.prompt, model_id=request.model_id)


def app() -> ASGIApp:
    return ControlHeaderFilter(RequestIdMiddleware(http_app(AtOnce())))


def main(port: int, path: str) -> None:
    """Without loops of uvicorn's own choice, as in a replica: Serve's port, and the socket that HAProxy finds."""
    config = uvicorn.Config(app(), lifespan="off", access_log=False, log_level="critical")
    beside = socket.create_server(("127.0.0.1", port), backlog=4096)
    behind = socket.socket(socket.AF_UNIX)
    behind.bind(path)
    behind.listen(4096)
    asyncio.run(uvicorn.Server(config).serve([beside, behind]))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
