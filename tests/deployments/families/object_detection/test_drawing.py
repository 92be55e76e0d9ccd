"""The picture with its boxes: upright, in the format of the file's name, and right at the edges."""

from pathlib import Path

import pytest
from PIL import Image

from deployments.contract.errors import InvalidImage
from deployments.contract.types import ObjectDetection, ObjectDetectionResult
from deployments.families.object_detection.drawing import COLOURS, save_drawing
from tests.support.image_models import encoded


def drawn(file: Path, image: Image.Image, result: ObjectDetectionResult, **options: object) -> Image.Image:
    request = ObjectDetection(model_id="m", image_data=encoded(image, "PNG", **options))
    save_drawing(request, result, file)
    return Image.open(file).convert("RGB")


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def test_each_label_has_its_colour_and_its_box(tmp_path: Path) -> None:
    result = ObjectDetectionResult(
        class_labels=["cat", "dog", "cat"],
        scores=[0.9, 0.8, 0.7],
        boxes=[(10, 60, 80, 95), (100, 60, 180, 95), (0, 0, 200, 100)],
    )
    image = drawn(tmp_path / "out.png", Image.new("RGB", (200, 100)), result)
    assert image.size == (200, 100)
    assert image.getpixel((45, 95)) == rgb(COLOURS[0])
    assert image.getpixel((140, 95)) == rgb(COLOURS[1])
    assert image.getpixel((199, 50)) == image.getpixel((100, 99)) == rgb(COLOURS[0])
    assert image.getpixel((60, 85)) == (0, 0, 0)


def test_the_picture_is_upright_as_its_boxes_are(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    nothing = ObjectDetectionResult(class_labels=[], scores=[], boxes=[])
    assert drawn(tmp_path / "out.jpg", Image.new("RGB", (40, 20)), nothing, exif=exif).size == (20, 40)


@pytest.mark.parametrize("size", [(1, 1), (3, 500)])
def test_a_tiny_picture_is_no_failure(tmp_path: Path, size: tuple[int, int]) -> None:
    result = ObjectDetectionResult(class_labels=["é猫"], scores=[1.0], boxes=[(0, 0, *size)])
    assert drawn(tmp_path / "out.webp", Image.new("RGB", size), result).size == size


def test_a_file_name_that_names_no_format_is_refused(tmp_path: Path) -> None:
    nothing = ObjectDetectionResult(class_labels=[], scores=[], boxes=[])
    with pytest.raises(ValueError, match="unknown file extension"):
        drawn(tmp_path / "out.text", Image.new("RGB", (4, 4)), nothing)
    with pytest.raises(InvalidImage):
        save_drawing(ObjectDetection(model_id="m", image_data=b"no"), nothing, tmp_path / "out.png")
