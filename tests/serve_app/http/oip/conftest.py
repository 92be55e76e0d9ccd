from collections.abc import AsyncGenerator, Iterator

import pytest
from starlette.testclient import TestClient

from deployments.contract.types import (
    ImageClassification,
    ImageClassificationResult,
    InferRequest,
    ObjectDetection,
    ObjectDetectionResult,
    TextGeneration,
    TextGenerationResult,
)
from deployments.replica.calls import Reply
from tests.support.http_runtimes import FakeRuntime, http_app, status


async def script(request: InferRequest) -> AsyncGenerator[Reply, None]:
    """Each family's answer, which says what was asked."""
    if isinstance(request, ImageClassification):
        best = ["cat", "dog", "cow"][: request.top_k or 3]
        yield ImageClassificationResult(class_labels=best, probabilities=[0.5, 0.25, 0.125][: len(best)])
    elif isinstance(request, ObjectDetection):
        found = len(request.image_data)
        boxes = [(0.0, 1.0, 2.0, float(number)) for number in range(found)]
        yield ObjectDetectionResult(class_labels=["cat"] * found, scores=[0.5] * found, boxes=boxes)
    else:
        assert isinstance(request, TextGeneration)
        text = f"{request.prompt}×{request.max_tokens}"
        yield TextGenerationResult(generated_text=text, model_id=f"{request.model_id}@2", finish_reason="stop")


@pytest.fixture
def runtime() -> FakeRuntime:
    runtime = FakeRuntime(script)
    runtime.statuses = [
        status("team/m", "text_generation", [1, 2]),
        status("image", "image_classification"),
        status("detector", "object_detection"),
    ]
    return runtime


@pytest.fixture
def http(runtime: FakeRuntime) -> Iterator[TestClient]:
    with TestClient(http_app(runtime), raise_server_exceptions=False) as client:
        yield client
