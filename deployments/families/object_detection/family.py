"""The row of the ObjectDetection family. Imports neither torch nor Ray."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from deployments.contract.errors import quoted
from deployments.contract.scalars import Box
from deployments.contract.settings import Autoscaling, ImageSettings
from deployments.contract.types import InferResponse, ObjectDetection, ObjectDetectionResult
from deployments.families.image_classification.family import work
from deployments.replica.family import Argument, Command, Family, Form, Output
from deployments.repository.diagnosis import without_preprocessor
from deployments.repository.families import architectures
from deployments.repository.manifest import FileName
from deployments.validation.golden import GoldenExample, content_of

DETECTORS = {
    "conditional_detr",
    "d_fine",
    "dab-detr",
    "deformable_detr",
    "deimv2",
    "detr",
    "lw_detr",
    "rf_detr",
    "rt_detr",
    "rt_detr_v2",
    "table-transformer",
    "yolos",
}
"""Model types that are detectors where config.json names no architecture."""
ASKED_IN_WORDS = {"grounding-dino", "mm-grounding-dino", "omdet-turbo", "owlv2", "owlvit"}
"""Model types whose `…ForObjectDetection` finds what a text names."""
TIMM_BY_DEFAULT = {"conditional_detr", "dab-detr", "deformable_detr", "detr", "table-transformer"}
"""Model types that the library gives timm's ResNet-50 where config.json names no backbone."""


class ObjectDetectionOptions(ImageSettings):
    """The settings of a detection deployment. It has no replica until the first request."""

    autoscaling: Autoscaling = Autoscaling(min_replicas=0)


class GoldenDetection(GoldenExample):
    """An image and an object in it."""

    image: FileName
    """A file of the model's folder."""
    label: str
    box: Box | None = None
    """Where it is; anywhere without one."""
    overlap: Annotated[float, Field(gt=0, le=1)] = 0.5
    """How much of the two boxes together is in both, at least."""
    score: Annotated[float, Field(ge=0, le=1)] | None = None
    tolerance: Annotated[float, Field(ge=0, le=1)] = 0.05
    """How far from `score` the answer's may lie."""
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """The request's."""

    @property
    def title(self) -> str:
        return self.image

    def request(self, model_id: str, folder: Path) -> ObjectDetection:
        image_data = content_of(folder, self.image, "image")
        return ObjectDetection(model_id=model_id, image_data=image_data, threshold=self.threshold)

    def fault(self, answer: InferResponse) -> str | None:
        if not isinstance(answer, ObjectDetectionResult):
            return f"answered with {type(answer).__name__}"
        found = zip(answer.class_labels, answer.scores, answer.boxes, strict=True)
        there = [
            score
            for label, score, box in found
            if label == self.label and (self.box is None or overlap(box, self.box) >= self.overlap)
        ]
        if not there:
            return f"no {quoted(self.label)}{' there' if self.box else ''}"
        if self.score is not None and min(abs(score - self.score) for score in there) > self.tolerance:
            return f"score {there[0]:.4f} instead of {self.score:.4f}"
        return None


def overlap(one: Box, other: Box) -> float:
    """The area in both boxes as a share of the area in either."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, width) * max(0.0, height)
    either = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - both
    return both / either if either > 0 else 0.0


def matches(config: Mapping[str, object]) -> bool:
    """By the architectures that config.json names; by the model type where it names none."""
    if names := architectures(config):
        return any("ForObjectDetection" in name for name in names)
    return config.get("model_type") in DETECTORS | ASKED_IN_WORDS


def lacks(config: Mapping[str, object], names: Collection[str]) -> str | None:
    if config.get("model_type") in ASKED_IN_WORDS:
        return (
            "it finds what a text names, and a request for objects has no text: take a detector with labels of its own"
        )
    return _without_backbone(config) or without_preprocessor(names)


def _without_backbone(config: Mapping[str, object]) -> str | None:
    """Asked before transformers reads config.json: for a backbone's name alone it would ask the Hub."""
    backbone, name = config.get("backbone_config"), config.get("backbone")
    if isinstance(backbone, Mapping):
        timm = backbone.get("model_type") == "timm_backbone"
        why = "backbone_config is timm_backbone"
    else:
        default = config.get("model_type") in TIMM_BY_DEFAULT
        timm = config.get("use_timm_backbone", default) is True and (default or name is not None)
        why = (
            "there is no backbone_config" if name is None else f"no backbone_config, but backbone: {quoted(str(name))}"
        )
    if timm:
        return (
            f"its backbone is timm's ({why}), which is not run here: take the folder with a backbone_config (no_timm)"
        )
    if name is not None and not isinstance(backbone, Mapping):
        return f"config.json has {why}, which would be fetched: take the folder with a backbone_config"
    return None


def _in_lines(result: ObjectDetectionResult) -> str:
    width = max(map(len, result.class_labels), default=0)
    found = zip(result.class_labels, result.scores, result.boxes, strict=True)
    lines = (f"{label:<{width}}  {score:.4f}  {' '.join(f'{side:.1f}' for side in box)}" for label, score, box in found)
    return "\n".join(lines) or "nothing found"


def _save_drawing(request: ObjectDetection, result: ObjectDetectionResult, file: Path) -> None:
    from deployments.families.object_detection.drawing import save_drawing  # Pillow and NumPy, for this alone

    save_drawing(request, result, file)


OBJECT_DETECTION = Family(
    name="object_detection",
    request=ObjectDetection,
    result=ObjectDetectionResult,
    deployment="deployments.families.object_detection.replica:ObjectDetectionReplica",
    options=ObjectDetectionOptions,
    matches=matches,
    work=work,
    golden=GoldenDetection,
    lacks=lacks,
    form=Form(ObjectDetection, file="picture", field="image_data", integers=("top_k",), fractions=("threshold",)),
    client=Command(
        "detect",
        "find objects in an image file",
        (
            Argument("file", "image_data", Path),
            Argument("--threshold", "threshold", float, help="the score that objects must exceed (default: 0.5)"),
            Argument("--top-k", "top_k", int, help="so many objects; 0 for all (default: all)"),
        ),
        _in_lines,
        output=Output("write the picture with its boxes", _save_drawing),
    ),
)
