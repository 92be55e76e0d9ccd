"""A TextGeneration replica without Ray."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deployments.contract.chunk import Chunk
from deployments.contract.settings import FamilySettings
from deployments.contract.types import TextGeneration, TextGenerationResult
from deployments.engines.text import select_backend
from deployments.families.text_generation import metrics
from deployments.families.text_generation.family import TEXT_GENERATION
from deployments.families.text_generation.replica import TextGenerationReplica
from deployments.replica.calls import Call
from deployments.replica.family import model_formats
from deployments.replica.model_replica import ReplicaOptions
from deployments.repository.model import find
from tests.support.text_models import CHATML, save_chat_model


class RayMetric:
    """In place of Ray's histograms, which need Ray."""

    def __init__(self, *args: object, **options: object) -> None: ...
    def observe(self, value: float, tags: dict[str, str]) -> None: ...


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_chat_model(root / "m", CHATML)
    return root


@pytest.fixture
async def replica(
    models: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[TextGenerationReplica]:
    """Models are converted beside the tests that wait for it."""
    monkeypatch.setattr(metrics, "Histogram", RayMetric)
    if request.node.get_closest_marker("compiles") is None:
        monkeypatch.setattr(select_backend, "_convert_in_background", lambda *given: None)
    options = ReplicaOptions(TEXT_GENERATION, models, model_formats([TEXT_GENERATION]), FamilySettings())
    replica = TextGenerationReplica(options)
    yield replica
    await replica.residency.close()


async def ask(
    replica: TextGenerationReplica,
    chunks: list[Chunk] | None = None,
    prompt: str = "",
    max_tokens: int = 12,
    **fields: object,
) -> TextGenerationResult:
    request = TextGeneration.model_validate({"model_id": "m", "prompt": prompt, "max_tokens": max_tokens} | fields)
    model = find(replica.options.repository().models(), "m", "text_generation")
    call = Call(request, "r", 60, model, chunks is not None, "c")
    answer = await replica.infer(call, None if chunks is None else chunks.append)
    assert isinstance(answer, TextGenerationResult)
    return answer
