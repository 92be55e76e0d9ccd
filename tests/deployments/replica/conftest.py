"""A repository of one model, a replica of it that answers in capitals, and calls to it."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deployments.contract.chunk import Chunk
from deployments.contract.types import InferResponse, TextGeneration, TextGenerationResult
from deployments.families.text_generation.family import TEXT_GENERATION
from deployments.replica.calls import Call, OnChunk
from deployments.replica.family import model_formats
from deployments.replica.model_replica import ModelReplica, ReplicaOptions
from deployments.repository.local import Repository
from deployments.repository.model import Model, find

FORMATS = model_formats([TEXT_GENERATION])


class Engine:
    """An engine of no size."""

    resident_bytes = 0
    runtime_info = ()

    def close(self) -> None: ...


class CapitalsReplica(ModelReplica[TextGeneration, Engine]):
    """Answers in capitals, a letter a chunk; never the prompt "wait", and "go on" once it `goes_on`."""

    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__(options)
        self.loads = 0
        self.prompts: list[str] = []
        self.goes_on = asyncio.Event()

    def load(self, model: Model) -> Engine:
        self.loads += 1
        return Engine()

    async def answer(
        self, request: TextGeneration, model: Model, engine: Engine, on_chunk: OnChunk | None
    ) -> InferResponse:
        self.prompts.append(request.prompt)
        if request.prompt == "wait":
            await asyncio.Event().wait()
        capitals = request.prompt.upper()
        if on_chunk is not None:
            for index, letter in enumerate(capitals, 1):
                on_chunk(Chunk(letter, index))
        if request.prompt == "go on":
            await self.goes_on.wait()
        return TextGenerationResult(generated_text=capitals)


Started = Callable[..., CapitalsReplica]


def found(models: Path) -> Model:
    return find(Repository(models, FORMATS).models(), "m", TEXT_GENERATION.name)


def call(model: Model, prompt: str, timeout_s: float = 10) -> Call:
    request = TextGeneration(model_id="m", prompt=prompt, max_tokens=1)
    return Call(request, "request-1", timeout_s, model, call_id=prompt)


async def states(replica: CapitalsReplica) -> list[str]:
    return [status.state for status in await replica.statuses()]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (tmp_path / "m" / "vocab.txt").write_text("a")
    save_file({"w": torch.zeros(1)}, tmp_path / "m" / "model.safetensors")
    return tmp_path


@pytest.fixture
def started(models: Path) -> Started:
    """Makes a replica with these settings."""

    def start(**settings: object) -> CapitalsReplica:
        read = TEXT_GENERATION.options.model_validate(settings)
        return CapitalsReplica(ReplicaOptions(TEXT_GENERATION, models, FORMATS, read, models.parent / "cache"))

    return start
