"""What the replicas of families that take images share: limits, and the threads that decode."""

from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from deployments.contract.settings import FamilySettings, ImageSettings
from deployments.contract.types import InferRequest
from deployments.families.computing.torch_replica import TorchReplica
from deployments.replica.model_replica import ReplicaOptions
from deployments.residency.engine import Engine
from deployments.residency.ledger import MIB

RequestT = TypeVar("RequestT", bound=InferRequest)
EngineT = TypeVar("EngineT", bound=Engine)


class ImageReplica(TorchReplica[RequestT, EngineT]):
    """A replica whose requests hold an image file."""

    stated_overhead = 384 * MIB  # large images, and new models that are compared with the library's

    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__(options)
        self.use(options.settings)
        self.decoders = ThreadPoolExecutor(self.cores, "decode")

    def use(self, settings: FamilySettings) -> None:
        # Imported here: only replicas import torch, not the process that builds the application.
        from deployments.engines.vision.decoding import LIMITS

        super().use(settings)
        assert isinstance(settings, ImageSettings)
        LIMITS.pixels = int(settings.max_megapixels * 1e6)
        LIMITS.budget_mb = settings.decode_budget_mb
