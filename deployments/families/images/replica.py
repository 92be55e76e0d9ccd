"""What the replicas of families that take images share: limits, device, and the threads that decode."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from deployments.contract.settings import ImageSettings
from deployments.contract.types import InferRequest
from deployments.replica.batching import Batcher
from deployments.replica.model_replica import ModelReplica, ReplicaOptions
from deployments.residency.engine import Engine
from deployments.residency.ledger import MIB

RequestT = TypeVar("RequestT", bound=InferRequest)
EngineT = TypeVar("EngineT", bound=Engine)
Ready = TypeVar("Ready")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Batched(Generic[EngineT, Ready, Result]):
    """An engine and the batcher that feeds it with images that are ready."""

    engine: EngineT
    batcher: Batcher[Ready, Result]

    @property
    def resident_bytes(self) -> int:
        return self.engine.resident_bytes

    @property
    def runtime_info(self) -> tuple[str, ...]:
        return self.engine.runtime_info

    def close(self) -> None:
        self.engine.close()


class ImageReplica(ModelReplica[RequestT, EngineT]):
    """A replica whose requests hold an image file."""

    stated_overhead = 384 * MIB  # large images, and new models that are compared with the library's

    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__(options)
        # Imported here: only replicas import torch, not the process that builds the application.
        from deployments.engines.device import default_device, gpu_share, use_threads
        from deployments.engines.loading import build_in_turn
        from deployments.engines.vision.decoding import LIMITS

        settings = options.settings
        assert isinstance(settings, ImageSettings)
        LIMITS.pixels = int(settings.max_megapixels * 1e6)
        LIMITS.budget_mb = settings.decode_budget_mb
        use_threads(self.cores)
        build_in_turn()
        self.device = default_device()
        if gpu := gpu_share(self.settings.num_gpus):
            self.use_gpu(gpu, gpu.total_bytes)
        self.decoders = ThreadPoolExecutor(self.cores, "decode")
