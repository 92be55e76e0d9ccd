"""Golden examples: what a model must answer before it answers anybody."""

from pathlib import Path

from deployments.contract.errors import quoted
from deployments.contract.types import (
    ImageClassification,
    ImageClassificationResult,
    InferRequest,
    InferResponse,
    TextGeneration,
    TextGenerationResult,
)
from deployments.repository.manifest import Golden


class NotGolden(Exception):
    """An example that does not hold, and why, in one line."""


def request_of(example: Golden, model_id: str, folder: Path) -> InferRequest:
    """The example as a request; its picture is read from the model's folder. Raises NotGolden."""
    if example.image is not None:
        try:
            picture = (folder / example.image).read_bytes()
        except OSError:
            raise NotGolden(f"there is no picture {quoted(example.image)} for a golden example") from None
        return ImageClassification(model_id=model_id, image_data=picture, top_k=1)
    assert example.prompt is not None
    assert example.max_tokens is not None
    # Greedy, whatever the model's own defaults are.
    return TextGeneration(model_id=model_id, prompt=example.prompt, max_tokens=example.max_tokens, temperature=0.0)


def check(example: Golden, answer: InferResponse) -> None:
    """Raises NotGolden where the answer is another one."""
    where = f"golden example {quoted(example.image or example.prompt or '')}"
    match answer:
        case ImageClassificationResult(class_labels=[label, *_], probabilities=[probability, *_]):
            if label != example.label:
                raise NotGolden(f"{where}: {quoted(label)} instead of {quoted(example.label or '')}")
            if example.probability is not None and abs(probability - example.probability) > example.tolerance:
                raise NotGolden(f"{where}: probability {probability:.4f} instead of {example.probability:.4f}")
        case TextGenerationResult(generated_text=text):
            if text != example.text:
                raise NotGolden(f"{where}: {quoted(text)} instead of {quoted(example.text or '')}")
        case _:
            raise NotGolden(f"{where}: answered with {type(answer).__name__}")
