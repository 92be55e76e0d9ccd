"""The row of ObjectDetection: which models it serves, its golden examples, what it prints."""

import re
from pathlib import Path
from typing import Any

import pytest

from deployments.contract.scalars import Box
from deployments.contract.types import ImageClassificationResult, ObjectDetection, ObjectDetectionResult
from deployments.families.object_detection.family import OBJECT_DETECTION, GoldenDetection, lacks, matches, overlap
from deployments.families.table import FAMILIES
from deployments.replica.family import model_formats
from deployments.repository.families import family_of
from deployments.repository.manifest import Manifest
from deployments.validation.golden import NotGolden

CAT = GoldenDetection(image="examples/cat.png", label="cat", box=(10, 10, 50, 50), score=0.9)
FILES = {"config.json", "model.safetensors", "preprocessor_config.json"}
RESNET, TIMM = {"model_type": "resnet"}, {"model_type": "timm_backbone"}


def answer(label: str, score: float, box: Box) -> ObjectDetectionResult:
    return ObjectDetectionResult(class_labels=["dog", label], scores=[0.95, score], boxes=[(0, 0, 9, 9), box])


@pytest.mark.parametrize(
    ("config", "served"),
    [
        ({"architectures": ["DetrForObjectDetection"]}, True),
        ({"architectures": ["RTDetrV2ForObjectDetection"], "model_type": "rt_detr_v2"}, True),
        ({"model_type": "d_fine"}, True),
        ({"architectures": [], "model_type": "yolos"}, True),
        ({"architectures": ["DetrForSegmentation"], "model_type": "detr"}, False),
        ({"architectures": ["ViTForImageClassification"], "model_type": "vit"}, False),
        ({"model_type": "vit"}, False),
        ({}, False),
    ],
)
def test_it_serves_detectors_by_their_architecture_or_model_type(config: dict[str, Any], served: bool) -> None:
    assert matches(config) == served
    if served:
        assert family_of(Manifest(), config, model_formats(FAMILIES)) == "object_detection"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "detr"}, r"timm's \(there is no backbone_config\)"),
        ({"model_type": "detr", "use_timm_backbone": True, "backbone": "resnet50"}, r"timm's .*'resnet50'"),
        ({"model_type": "table-transformer", "backbone": "resnet18"}, r"timm's .*'resnet18'"),
        ({"model_type": "rt_detr", "use_timm_backbone": True, "backbone": "resnet18"}, "timm's"),
        (
            {"model_type": "detr", "backbone_config": {"model_type": "timm_backbone"}},
            "backbone_config is timm_backbone",
        ),
        (
            {"model_type": "detr", "use_timm_backbone": False, "backbone": "org/resnet"},
            "'org/resnet'.* would be fetched",
        ),
        ({"model_type": "owlvit"}, "what a text names"),
        ({"model_type": "detr", "backbone_config": RESNET}, None),
        ({"model_type": "detr", "backbone_config": RESNET, "backbone": None, "use_timm_backbone": False}, None),
        ({"model_type": "rt_detr"}, None),
        ({"model_type": "yolos"}, None),
    ],
)
def test_a_folder_that_cannot_be_read_here_is_told_by_which_key(config: dict[str, Any], reason: str | None) -> None:
    lacking = lacks(config, FILES)
    if reason is None:
        assert lacking is None
        assert "preprocessor_config.json" in (lacks(config, FILES - {"preprocessor_config.json"}) or "")
    else:
        assert lacking is not None
        assert re.search(reason, lacking), lacking


def test_a_golden_example_asks_for_the_objects_in_a_file_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "cat.png").write_bytes(b"image")
    assert CAT.request("m", tmp_path) == ObjectDetection(model_id="m", image_data=b"image")
    low = CAT.model_copy(update={"threshold": 0.1})
    assert low.request("m", tmp_path) == ObjectDetection(model_id="m", image_data=b"image", threshold=0.1)
    with pytest.raises(NotGolden, match="there is no image 'examples/cat.png'"):
        CAT.request("m", tmp_path / "elsewhere")


def test_a_golden_example_is_read_from_yaml() -> None:
    read = GoldenDetection.model_validate({"image": "a.png", "label": "cat", "box": [1, 2, 3.5, 4]})
    assert read.box == (1, 2, 3.5, 4)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (answer("cat", 0.9, (10, 10, 50, 50)), None),
        (answer("cat", 0.86, (12, 8, 55, 50)), None),
        (answer("cow", 0.9, (10, 10, 50, 50)), "no 'cat' there"),
        (answer("cat", 0.9, (40, 40, 90, 90)), "no 'cat' there"),
        (answer("cat", 0.8, (10, 10, 50, 50)), "score 0.8000 instead of 0.9000"),
        (ObjectDetectionResult(class_labels=[], scores=[], boxes=[]), "no 'cat' there"),
        (ImageClassificationResult(class_labels=["cat"], probabilities=[1]), "answered with ImageClassificationResult"),
    ],
)
def test_the_object_has_to_be_found_where_it_is(given: Any, fault: str | None) -> None:
    assert CAT.fault(given) == fault


def test_an_object_without_a_box_may_be_anywhere() -> None:
    anywhere = GoldenDetection(image="x.png", label="cat")
    assert anywhere.fault(answer("cat", 0.2, (0, 0, 1, 1))) is None
    assert anywhere.fault(answer("cow", 0.2, (0, 0, 1, 1))) == "no 'cat'"


def test_overlap_is_the_share_that_both_boxes_have() -> None:
    assert overlap((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 1, 1), (1, 1, 2, 2)) == overlap((3, 3, 3, 3), (3, 3, 3, 3)) == 0


def test_the_command_prints_a_line_an_object() -> None:
    command = OBJECT_DETECTION.client
    assert command
    shown = command.shown(answer("kitten", 0.9, (1, 2, 3.25, 4)))
    assert shown == "dog     0.9500  0.0 0.0 9.0 9.0\nkitten  0.9000  1.0 2.0 3.2 4.0"
    assert command.shown(ObjectDetectionResult(class_labels=[], scores=[], boxes=[])) == "nothing found"
