"""A family whose models are folders of nothing: to load one, and to answer, takes its time and no more."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deployments.contract.types import InferRequest, InferResponse
from deployments.replica.calls import OnChunk
from deployments.replica.family import Family
from deployments.replica.model_replica import ModelReplica
from deployments.repository.model import Model

LOAD_S, SERVICE_S = 0.5, 0.1
MODEL_MB = 100


class Empty(InferRequest, index=1002):
    pass


class EmptyResult(InferResponse, index=1002):
    pass


def matches(config: Mapping[str, object]) -> bool:
    return config.get("architectures") == ["Empty"]


@dataclass(frozen=True)
class EmptyModel:
    resident_bytes: int
    runtime_info: tuple[str, ...] = ()

    def close(self) -> None: ...


class EmptyReplica(ModelReplica[Empty, EmptyModel]):
    @staticmethod
    def side_by_side(settings: object) -> int:
        return 64

    def load(self, model: Model) -> EmptyModel:
        with loads_file(Path(self.options.models)).open("a") as file:
            file.write(f"{model.name}\n")
        time.sleep(LOAD_S)
        return EmptyModel(model.declared_bytes)

    async def answer(self, request: Empty, model: Model, engine: EmptyModel, on_chunk: OnChunk | None) -> InferResponse:
        await asyncio.sleep(SERVICE_S)
        return EmptyResult()


def loads_file(repository: Path) -> Path:
    """Takes a line for each load of any replica."""
    return repository.with_name("loads.txt")


EMPTY = Family(
    name="empty",
    request=Empty,
    result=EmptyResult,
    deployment="benchmarks.cluster.empty_models:EmptyReplica",
    matches=matches,
)
