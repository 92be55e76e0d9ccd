"""Boxes follow their cells through whatever is done to a picture."""

import io
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from training.cells import HEIGHT, MEAN, NAMES, WIDTH, Cells, as_cells, augment, load_labelled, turned, visible


def one_cell(left: int, top: int, right: int, bottom: int) -> Cells:
    """Black on a ground of the usual colour."""
    ground = (torch.tensor(MEAN) * 255).to(torch.uint8)
    pixels = ground.view(1, 3, 1, 1).repeat(1, 1, HEIGHT, WIDTH)
    pixels[:, :, top:bottom, left:right] = 0
    box = torch.tensor([[left / WIDTH, top / HEIGHT, right / WIDTH, bottom / HEIGHT]])
    return Cells(pixels, [torch.tensor([1])], [box])


def test_the_archives_boxes_are_shares_of_the_sides(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (640, 480)).save(picture, "JPEG")
    boxes = {"RBC": (64, 48, 320, 240), "WBC": (9, 9, 9, 9)}
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for name, (a, b, c, d) in boxes.items()
    )
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as files:
        files.writestr("val/one.jpg", picture.getvalue())
        files.writestr("val/one.xml", f"<annotation>{objects}</annotation>")
    [labelled] = load_labelled(tmp_path / "cells.zip", "val").values()
    cells = as_cells([labelled])
    assert cells.pixels.shape == (1, 3, HEIGHT, WIDTH)
    assert [NAMES[index] for index in cells.classes[0]] == ["RBC"]  # the other has no area
    assert torch.allclose(cells.boxes[0], torch.tensor([[0.1, 0.1, 0.5, 0.5]]))


@pytest.mark.parametrize("seed", range(8))
def test_a_turned_box_lies_on_its_cell(seed: int) -> None:
    cells = one_cell(32, 24, 96, 60)
    pixels, [boxes] = turned(cells.pixels, cells.boxes, torch.Generator().manual_seed(seed))
    height, width = pixels.shape[2:]
    left, top, right, bottom = (boxes[0] * torch.tensor([width, height] * 2)).round().int().tolist()
    assert (pixels[:, :, top:bottom, left:right] == 0).all()
    assert (right - left) * (bottom - top) == 64 * 36


@pytest.mark.parametrize("seed", range(8))
def test_an_augmented_box_lies_on_its_cell(seed: int) -> None:
    batch = augment(one_cell(100, 70, 160, 120), [0], torch.Generator().manual_seed(seed))
    light = batch.images[0].mean(0)
    dark = light < (light.min() + light.max()) / 2
    height, width = dark.shape
    for box in batch.boxes[0]:
        left, top, right, bottom = (box * torch.tensor([width, height] * 2)).round().int().tolist()
        assert dark[top:bottom, left:right].float().mean() > 0.9
        dark[max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = False
    # What a border or a line has cut off is no object where it is less than a third.
    assert dark.float().mean() < 60 * 50 / (HEIGHT * WIDTH)


def test_little_that_is_left_of_a_cell_is_no_object() -> None:
    classes, boxes = torch.tensor([0, 1]), torch.tensor([[-0.3, 0.2, 0.1, 0.4], [-0.1, 0.2, 0.3, 0.4]])
    kept, clipped = visible(classes, boxes, (0.0, 0.0, 1.0, 1.0))
    assert kept.tolist() == [1]
    assert torch.allclose(clipped, torch.tensor([[0.0, 0.2, 0.3, 0.4]]))
