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


class Shelved(InferRequest, index=1002):
    pass


class ShelvedResult(InferResponse, index=1002):
    pass


def matches(config: Mapping[str, object]) -> bool:
    return config.get("architectures") == ["Shelved"]


@dataclass(frozen=True)
class Shelf:
    resident_bytes: int
    runtime_info: tuple[str, ...] = ()

    def close(self) -> None: ...


class ShelvedReplica(ModelReplica[Shelved, Shelf]):
    @staticmethod
    def side_by_side(settings: object) -> int:
        return 64

    def load(self, model: Model) -> Shelf:
        with loads_file(Path(self.options.models)).open("a") as file:
            file.write(f"{model.name}\n")
        time.sleep(LOAD_S)
        return Shelf(model.declared_bytes)

    async def answer(self, request: Shelved, model: Model, engine: Shelf, on_chunk: OnChunk | None) -> InferResponse:
        await asyncio.sleep(SERVICE_S)
        return ShelvedResult()


def loads_file(repository: Path) -> Path:
    """Takes a line for each load of any replica."""
    return repository.with_name("loads.txt")


SHELVED = Family(
    name="shelved",
    request=Shelved,
    result=ShelvedResult,
    deployment="benchmarks.cluster.shelves:ShelvedReplica",
    matches=matches,
)
