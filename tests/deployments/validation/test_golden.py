"""What a golden example asks, and when its answer will do."""

from pathlib import Path

import pytest

from deployments.contract.types import (
    ImageClassification,
    ImageClassificationResult,
    InferResponse,
    TextGeneration,
    TextGenerationResult,
)
from deployments.repository.manifest import Golden
from deployments.validation.golden import NotGolden, check, request_of

CAT = Golden(image="examples/cat.png", label="cat", probability=0.9)
VERSE = Golden(prompt="ROMEO:", max_tokens=3, text=" I am")


def image(label: str, probability: float) -> ImageClassificationResult:
    return ImageClassificationResult(class_labels=[label, "dog"], probabilities=[probability, 0.01])


def test_an_example_becomes_a_request_of_its_kind(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "cat.png").write_bytes(b"picture")
    assert request_of(CAT, "m", tmp_path) == ImageClassification(model_id="m", image_data=b"picture", top_k=1)
    greedy = TextGeneration(model_id="m", prompt="ROMEO:", max_tokens=3, temperature=0.0)
    assert request_of(VERSE, "m", tmp_path) == greedy
    with pytest.raises(NotGolden, match="there is no picture 'examples/cat.png'"):
        request_of(CAT, "m", tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("example", "answer"),
    [
        (CAT, image("cat", 0.86)),
        (CAT, image("cat", 0.94)),
        (Golden(image="x.png", label="cat"), image("cat", 0.3)),
        (VERSE, TextGenerationResult(generated_text=" I am")),
    ],
)
def test_an_answer_that_will_do(example: Golden, answer: InferResponse) -> None:
    check(example, answer)


@pytest.mark.parametrize(
    ("example", "answer", "said"),
    [
        (CAT, image("dog", 0.9), "golden example 'examples/cat.png': 'dog' instead of 'cat'"),
        (CAT, image("cat", 0.8), "probability 0.8000 instead of 0.9000"),
        (CAT, ImageClassificationResult(class_labels=[], probabilities=[]), "answered with"),
        (VERSE, TextGenerationResult(generated_text=" I was"), "' I was' instead of ' I am'"),
    ],
)
def test_an_answer_that_will_not(example: Golden, answer: InferResponse, said: str) -> None:
    with pytest.raises(NotGolden, match=said):
        check(example, answer)
