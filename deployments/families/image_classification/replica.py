"""The replica of the ImageClassification family: it decodes images in threads, beside the forwards of all models."""

import asyncio
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from deployments.contract.types import ImageClassification, ImageClassificationResult
from deployments.engines.decimals import shortest
from deployments.families.computing.torch_replica import Batched
from deployments.families.image_classification.executors import ForwardExecutors
from deployments.families.images.replica import ImageReplica
from deployments.metrics.meter import PREPROCESS
from deployments.replica.batching import Batcher
from deployments.replica.calls import OnChunk
from deployments.replica.model_replica import ReplicaOptions
from deployments.repository.model import Model
from deployments.system.artifact_cache import ArtifactCache

if TYPE_CHECKING:
    from deployments.engines.vision.engine import ImageClassificationEngine
    from deployments.engines.vision.inputs import Item

DEFAULT_TOP_K = 5
COMPILED_BYTES = 4 << 30
"""Of all compiled models on disk."""


Classifier: TypeAlias = "Batched[ImageClassificationEngine, Item | bytes, np.ndarray]"


class ImageClassificationReplica(ImageReplica[ImageClassification, Classifier]):
    """Answers ImageClassification requests."""

    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__(options)
        # Imported here: only replicas import torch, not the process that builds the application.
        from deployments.engines.vision.decoding import is_small
        from deployments.engines.vision.engine import ImageClassificationEngine

        self.is_small = is_small
        self.engine_class = ImageClassificationEngine
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
        return Batched(
            engine,
            Batcher(
                lambda: self.executors.policy(classify, engine.at_once, min(limit, engine.batch_size)),
                self.batched(model),
            ),
        )

    async def answer(
        self, request: ImageClassification, model: Model, engine: Classifier, on_chunk: OnChunk | None
    ) -> ImageClassificationResult:
        image: Item | bytes = request.image_data
        if engine.engine.at_once == 1 and not self.is_small(request.image_data):
            preprocess = self.cpu.working(model.name)(engine.engine.preprocess)
            with self.timed(PREPROCESS, model):
                image = await asyncio.get_running_loop().run_in_executor(self.decoders, preprocess, request.image_data)
        probabilities = await engine.batcher.submit(image)
        top_k = DEFAULT_TOP_K if request.top_k is None else request.top_k
        class_labels, best = engine.engine.best(probabilities, top_k)
        return ImageClassificationResult(
            class_labels=class_labels, probabilities=shortest(np.array(best)), model_id=model.name
        )
