"""The row of ImageClassification: which models it serves, its golden examples, what it prints."""

from pathlib import Path

import pytest

from deployments.contract.types import ImageClassification, ImageClassificationResult, InferResponse
from deployments.families.image_classification.family import IMAGE_CLASSIFICATION, GoldenImage, matches
from deployments.validation.golden import NotGolden

CAT = GoldenImage(image="examples/cat.png", label="cat", probability=0.9)


def answer(label: str, probability: float) -> ImageClassificationResult:
    return ImageClassificationResult(class_labels=[label, "dog"], probabilities=[probability, 0.01])


@pytest.mark.parametrize(
    ("architectures", "served"),
    [
        (["ViTForImageClassification"], True),
        (["DeiTForImageClassificationWithTeacher"], True),
        (["LlamaForCausalLM"], False),
        ([], False),
        ("ViTForImageClassification", False),
        (None, False),
    ],
)
def test_it_serves_classifiers_of_images(architectures: object, served: bool) -> None:
    assert matches({"architectures": architectures}) == served


def test_a_golden_example_asks_for_the_best_label_of_a_file_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "cat.png").write_bytes(b"image")
    assert CAT.request("m", tmp_path) == ImageClassification(model_id="m", image_data=b"image", top_k=1)
    with pytest.raises(NotGolden, match="there is no image 'examples/cat.png'"):
        CAT.request("m", tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("example", "given"),
    [
        (CAT, answer("cat", 0.86)),
        (CAT, answer("cat", 0.94)),
        (GoldenImage(image="x.png", label="cat"), answer("cat", 0.3)),
    ],
)
def test_an_answer_near_enough_is_the_right_one(example: GoldenImage, given: InferResponse) -> None:
    assert example.fault(given) is None


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (answer("dog", 0.9), "'dog' instead of 'cat'"),
        (answer("cat", 0.8), "probability 0.8000 instead of 0.9000"),
        (ImageClassificationResult(class_labels=[], probabilities=[]), "answered with ImageClassificationResult"),
    ],
)
def test_another_answer_is_a_fault(given: InferResponse, fault: str) -> None:
    assert CAT.fault(given) == fault


def test_the_sample_is_an_image_and_the_command_reads_a_file(tmp_path: Path) -> None:
    sample, command = IMAGE_CLASSIFICATION.sample, IMAGE_CLASSIFICATION.client
    assert sample
    assert command
    request = IMAGE_CLASSIFICATION.request_for("m", sample.fields)
    assert isinstance(request, ImageClassification)
    assert request.image_data.startswith(b"\xff\xd8")
    assert sample.shown(answer("cat", 0.9)) == "cat 0.900, dog 0.010"
    assert command.shown(answer("kitten", 0.9)) == "kitten  0.9000\ndog     0.0100"
