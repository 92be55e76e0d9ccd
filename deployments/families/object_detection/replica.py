"""The replica of the ObjectDetection family: it decodes pictures in threads, beside the one forward that runs."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

from deployments.contract.types import ObjectDetection, ObjectDetectionResult
from deployments.engines.decimals import shortest
from deployments.families.computing.torch_replica import Batched
from deployments.families.images.replica import ImageReplica
from deployments.metrics.meter import PREPROCESS
from deployments.replica.batching import Batcher, BatchPolicy
from deployments.replica.calls import OnChunk
from deployments.replica.model_replica import ReplicaOptions
from deployments.repository.model import Model
from deployments.residency.ledger import MIB
from deployments.system.artifact_cache import ArtifactCache

if TYPE_CHECKING:
    from deployments.engines.detection.engine import Found, ObjectDetectionEngine, Picture

DEFAULT_THRESHOLD = 0.5

Detector: TypeAlias = "Batched[ObjectDetectionEngine, Picture, Found]"


class ObjectDetectionReplica(ImageReplica[ObjectDetection, Detector]):
    """Answers ObjectDetection requests. The forwards of all models run one after another, each on all cores."""

    stated_overhead = 640 * MIB  # DETR's shape with a ResNet-50 took 573 MiB for a picture of 1333×800

    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__(options)
        # Imported here: only replicas import torch, not the process that builds the application.
        from deployments.engines.detection.engine import DETECTORS_BYTES, ObjectDetectionEngine

        self.engine_class = ObjectDetectionEngine
        self.converted = ArtifactCache(self.cache / "detectors", DETECTORS_BYTES)
        self.forwards = ThreadPoolExecutor(1, "forward")

    def load(self, model: Model) -> Detector:
        facts = self.validator.facts_of(model.folder)
        dtype, most = model.manifest.dtype, self.batch_limit(model)
        engine = self.engine_class.load(model.folder, self.device, dtype, self.cores, facts, self.converted)
        detect = self.cpu.working(model.name)(engine.detect)

        def policy() -> "BatchPolicy[Picture, Found]":
            return BatchPolicy(detect, self.forwards, 1, min(most, engine.batch_size))

        return Batched(engine, Batcher(policy, self.batched(model)))

    async def answer(
        self, request: ObjectDetection, model: Model, engine: Detector, on_chunk: OnChunk | None
    ) -> ObjectDetectionResult:
        threshold = DEFAULT_THRESHOLD if request.threshold is None else request.threshold
        preprocess = self.cpu.working(model.name)(engine.engine.preprocess)
        with self.timed(PREPROCESS, model):
            picture = await asyncio.get_running_loop().run_in_executor(
                self.decoders, preprocess, request.image_data, threshold
            )
        labels, scores, boxes = await engine.batcher.submit(picture)
        best = slice(request.top_k or None)
        return ObjectDetectionResult(
            class_labels=labels[best],
            scores=shortest(scores[best]),
            boxes=[(x_min, y_min, x_max, y_max) for x_min, y_min, x_max, y_max in shortest(boxes[best])],
            model_id=model.name,
        )
