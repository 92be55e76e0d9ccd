"""The row of the ImageClassification family. Imports neither torch nor Ray."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from deployments.contract.errors import quoted
from deployments.contract.settings import ImageSettings
from deployments.contract.types import ImageClassification, ImageClassificationResult, InferResponse, ObjectDetection
from deployments.replica.family import Argument, Command, Family, Form, Sample
from deployments.repository.diagnosis import without_preprocessor
from deployments.repository.families import architectures
from deployments.repository.manifest import FileName
from deployments.validation.golden import GoldenExample, content_of

SAMPLE_IMAGE = Path(__file__).parent / "airplane.jpg"


class ImageClassificationOptions(ImageSettings):
    """The settings of an image deployment."""


class GoldenImage(GoldenExample):
    """An image and its best label."""

    image: FileName
    """A file of the model's folder."""
    label: str
    probability: Annotated[float, Field(ge=0, le=1)] | None = None
    tolerance: Annotated[float, Field(ge=0, le=1)] = 0.05
    """How far from `probability` the answer's may lie."""

    @property
    def title(self) -> str:
        return self.image

    def request(self, model_id: str, folder: Path) -> ImageClassification:
        image_data = content_of(folder, self.image, "image")
        return ImageClassification(model_id=model_id, image_data=image_data, top_k=1)

    def fault(self, answer: InferResponse) -> str | None:
        match answer:
            case ImageClassificationResult(class_labels=[label, *_], probabilities=[probability, *_]):
                if label != self.label:
                    return f"{quoted(label)} instead of {quoted(self.label)}"
                if self.probability is not None and abs(probability - self.probability) > self.tolerance:
                    return f"probability {probability:.4f} instead of {self.probability:.4f}"
                return None
        return f"answered with {type(answer).__name__}"


def work(request: ImageClassification | ObjectDetection) -> float:
    """In bytes of the file: they stand for its pixels, of which nothing is read before its turn. What the network does,
    whatever the picture, counts as so many bytes."""
    return 20_000 + len(request.image_data)


def matches(config: Mapping[str, object]) -> bool:
    """Also DeiTForImageClassificationWithTeacher: the name need not end so."""
    return any("ForImageClassification" in name for name in architectures(config))


def lacks(config: Mapping[str, object], names: Collection[str]) -> str | None:
    return without_preprocessor(names)


def _in_one_line(result: ImageClassificationResult) -> str:
    best = zip(result.class_labels[:3], result.probabilities[:3], strict=True)
    return ", ".join(f"{label} {probability:.3f}" for label, probability in best)


def _in_columns(result: ImageClassificationResult) -> str:
    width = max(map(len, result.class_labels), default=0)
    best = zip(result.class_labels, result.probabilities, strict=True)
    return "\n".join(f"{label:<{width}}  {probability:.4f}" for label, probability in best)


IMAGE_CLASSIFICATION = Family(
    name="image_classification",
    request=ImageClassification,
    result=ImageClassificationResult,
    deployment="deployments.families.image_classification.replica:ImageClassificationReplica",
    options=ImageClassificationOptions,
    matches=matches,
    work=work,
    golden=GoldenImage,
    lacks=lacks,
    form=Form(ImageClassification, file="image", field="image_data", integers=("top_k",)),
    sample=Sample({"image_data": SAMPLE_IMAGE}, _in_one_line),
    client=Command(
        "image",
        "classify an image file",
        (
            Argument("file", "image_data", Path),
            Argument("--top-k", "top_k", int, 5, "so many labels; 0 for all (default: 5)"),
        ),
        _in_columns,
    ),
)
