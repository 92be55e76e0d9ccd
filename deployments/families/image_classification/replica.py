"""The replica of the ImageClassification family: it decodes images in threads, beside the forwards of all models."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deployments.contract.types import ImageClassification, ImageClassificationResult
from deployments.families.image_classification.executors import ForwardExecutors
from deployments.families.image_classification.family import ImageClassificationOptions
from deployments.replica.batching import Batcher
from deployments.replica.calls import OnChunk
from deployments.replica.model_replica import ModelReplica, ReplicaOptions
from deployments.repository.model import Model
from deployments.residency.ledger import MIB
from deployments.system.artifact_cache import ArtifactCache

if TYPE_CHECKING:
    from deployments.engines.vision.engine import ImageClassificationEngine
    from deployments.engines.vision.inputs import Item

DEFAULT_TOP_K = 5
COMPILED_BYTES = 4 << 30
"""Of all compiled models on disk."""


@dataclass(frozen=True, slots=True)
class Classifier:
    """An engine and the batcher that feeds it."""

    engine: "ImageClassificationEngine"
    batcher: "Batcher[Item | bytes, np.ndarray]"

    @property
    def resident_bytes(self) -> int:
        return self.engine.resident_bytes

    @property
    def runtime_info(self) -> tuple[str, ...]:
        return self.engine.runtime_info

    def close(self) -> None:
        self.engine.close()


class ImageClassificationReplica(ModelReplica[ImageClassification, Classifier]):
    """Answers ImageClassification requests."""

    stated_overhead = 384 * MIB  # large images, and new models that are compared with the library's

    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__(options)
        # Imported here: only replicas import torch, not the process that builds the application.
        from deployments.engines.device import default_device, gpu_share, use_threads
        from deployments.engines.loading import build_in_turn
        from deployments.engines.vision.decoding import LIMITS, is_small
        from deployments.engines.vision.engine import ImageClassificationEngine

        settings = options.settings
        assert isinstance(settings, ImageClassificationOptions)
        LIMITS.pixels = int(settings.max_megapixels * 1e6)
        LIMITS.budget_mb = settings.decode_budget_mb
        use_threads(self.cores)
        build_in_turn()
        self.device = default_device()
        if gpu := gpu_share(self.settings.num_gpus):
            self.use_gpu(gpu, gpu.total_bytes)
        self.is_small = is_small
        self.engine_class = ImageClassificationEngine
        self.decoders = ThreadPoolExecutor(self.cores, "decode")
        self.executors = ForwardExecutors(self.cores)
        self.compiled = ArtifactCache(self.cache / "prepared", COMPILED_BYTES)

    def load(self, model: Model) -> Classifier:
        manifest = model.manifest
        facts = self.validator.facts_of(model.folder)
        engine = self.engine_class.load(
            model.folder, self.device, manifest.dtype, manifest.draft_decoding, self.cores, self.compiled, facts
        )
        limit = self.batch_limit(model)
        classify = self.cpu.working(model.name)(engine.classify)
        return Classifier(
            engine, Batcher(lambda: self.executors.policy(classify, engine.at_once, min(limit, engine.batch_size)))
        )

    async def answer(
        self, request: ImageClassification, model: Model, engine: Classifier, on_chunk: OnChunk | None
    ) -> ImageClassificationResult:
        image: Item | bytes = request.image_data
        if engine.engine.at_once == 1 and not self.is_small(request.image_data):
            preprocess = self.cpu.working(model.name)(engine.engine.preprocess)
            image = await asyncio.get_running_loop().run_in_executor(self.decoders, preprocess, request.image_data)
        probabilities = await engine.batcher.submit(image)
        top_k = DEFAULT_TOP_K if request.top_k is None else request.top_k
        class_labels, best = engine.engine.best(probabilities, top_k)
        # The shortest decimals that read back as the same f32, as serde writes them.
        shortest = [float(str(np.float32(probability))) for probability in best]
        return ImageClassificationResult(class_labels=class_labels, probabilities=shortest, model_id=model.name)
