"""What the replicas of all families that compute with torch share: threads, device, and an engine with its batcher."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from deployments.contract.types import InferRequest
from deployments.replica.batching import Batcher
from deployments.replica.model_replica import ModelReplica, ReplicaOptions
from deployments.residency.engine import Engine

RequestT = TypeVar("RequestT", bound=InferRequest)
EngineT = TypeVar("EngineT", bound=Engine)
Ready = TypeVar("Ready")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Fed(Generic[EngineT]):
    """An engine, and in its subclasses what feeds it."""

    engine: EngineT

    @property
    def resident_bytes(self) -> int:
        return self.engine.resident_bytes

    @property
    def runtime_info(self) -> tuple[str, ...]:
        return self.engine.runtime_info

    def close(self) -> None:
        self.engine.close()


@dataclass(frozen=True)
class Batched(Fed[EngineT], Generic[EngineT, Ready, Result]):
    """With the batcher that feeds it with inputs that are ready."""

    batcher: Batcher[Ready, Result]

    @property
    def busy_s(self) -> float:
        return self.batcher.busy_s


class TorchReplica(ModelReplica[RequestT, EngineT]):
    """Computes on the replica's cores, and on its share of a GPU where it has one."""

    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__(options)
        # Imported here: only replicas import torch, not the process that builds the application.
        from deployments.engines.device import default_device, gpu_fault, gpu_share, use_threads
        from deployments.engines.loading import build_in_turn

        use_threads(self.cores)
        build_in_turn()
        self.device = default_device()
        if gpu := gpu_share(self.settings.num_gpus):
            self.use_gpu(gpu, gpu.total_bytes)
        self._gpu_fault = gpu_fault

    def problem(self) -> str | None:
        return super().problem() or self._gpu_fault()
