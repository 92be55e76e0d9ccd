"""Pictures of blood cells with their boxes, as they are and varied for training."""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

NAMES = ("RBC", "WBC", "Platelets")
WIDTH, HEIGHT = 256, 192
"""What the model sees of the archive's 640 by 480; multiples of 32, as its three feature maps need."""
MEAN = (0.74, 0.70, 0.72)
STD = (0.10, 0.14, 0.10)


@dataclass
class Labelled:
    """A picture and what is in it."""

    image: Image.Image
    classes: Tensor
    """Int64 [objects], places in NAMES."""
    boxes: Tensor
    """Float32 [objects, 4]: x_min, y_min, x_max, y_max in pixels."""


def read_objects(annotation: bytes) -> tuple[Tensor, Tensor]:
    """Classes and boxes of a Pascal VOC file; two boxes in the archive have no area and are left out."""
    classes, boxes = [], []
    for found in ElementTree.fromstring(annotation).iter("object"):
        corners = [float(found.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")]
        if corners[2] > corners[0] and corners[3] > corners[1]:
            classes.append(NAMES.index(found.findtext("name", "")))
            boxes.append(corners)
    return torch.tensor(classes, dtype=torch.int64), torch.tensor(boxes).reshape(-1, 4)


def load_labelled(archive: Path, part: str) -> dict[str, Labelled]:
    """Those of `train`, `val` or `test` by their names, in order."""
    labelled = {}
    with zipfile.ZipFile(archive) as files:
        for name in sorted(name for name in files.namelist() if name.startswith(part) and name.endswith(".jpg")):
            image = Image.open(io.BytesIO(files.read(name))).convert("RGB")
            labelled[name] = Labelled(image, *read_objects(files.read(name.replace(".jpg", ".xml"))))
    return labelled


@dataclass
class Cells:
    """Pictures of the model's size, uint8 [count, 3, HEIGHT, WIDTH], and their objects."""

    pixels: Tensor
    classes: list[Tensor]
    boxes: list[Tensor]
    """Corners as shares of the sides."""


def as_cells(labelled: Sequence[Labelled]) -> Cells:
    """Resized as the saved processor does it."""
    resized = [picture.image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR) for picture in labelled]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in resized])).permute(0, 3, 1, 2)
    boxes = [picture.boxes / torch.tensor(picture.image.size * 2) for picture in labelled]
    return Cells(pixels.contiguous(), [picture.classes for picture in labelled], boxes)


def normalized(images: Tensor) -> Tensor:
    """From values in [0, 1] to those the model expects."""
    images = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return images.contiguous(memory_format=torch.channels_last)


@dataclass
class Batch:
    images: Tensor
    """Normalised, [batch, 3, height, width]."""
    classes: list[Tensor]
    boxes: list[Tensor]
    """Of each picture [objects, 4]: corners as shares of the sides."""


def visible(classes: Tensor, boxes: Tensor, frame: tuple[float, float, float, float]) -> tuple[Tensor, Tensor]:
    """What is left of the boxes within the frame; less than a third of a box is no object."""
    low, high = torch.tensor(frame[:2] * 2), torch.tensor(frame[2:] * 2)
    clipped = boxes.clamp(low, high)
    share = (clipped[:, 2:] - clipped[:, :2]).prod(1) / (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return classes[share > 0.35], clipped[share > 0.35]


def turned(pixels: Tensor, boxes: list[Tensor], random: torch.Generator) -> tuple[Tensor, list[Tensor]]:
    """All of a batch by the same quarters, mirrored or not: cells have no upright."""
    quarters, mirrored = (int(torch.randint(most, (), generator=random)) for most in (4, 2))
    for _ in range(quarters):  # to the left: what was right is on top
        pixels = pixels.rot90(1, (2, 3))
        boxes = [torch.stack([b[:, 1], 1 - b[:, 2], b[:, 3], 1 - b[:, 0]], 1) for b in boxes]
    if mirrored:
        pixels = pixels.flip(3)
        boxes = [torch.stack([1 - b[:, 2], b[:, 1], 1 - b[:, 0], b[:, 3]], 1) for b in boxes]
    return pixels, boxes


def augment(cells: Cells, chosen: list[int], random: torch.Generator) -> Batch:
    """Turned, zoomed, shifted, joined with another picture of the batch at a line, and in other light."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=random) * (high - low) + low

    count = len(chosen)
    pixels, boxes = turned(cells.pixels[chosen].float() / 255, [cells.boxes[index] for index in chosen], random)
    classes = [cells.classes[index] for index in chosen]

    # What is seen is a window of the picture, `size` of its sides wide and high, about `centre`.
    size = uniform(0.6, 1.15, count, 1) * uniform(0.9, 1.1, count, 2)
    room = (1 - size).abs() / 2
    centre = 0.5 + room * uniform(-1, 1, count, 2)
    zoom = torch.zeros(count, 2, 3)
    zoom[:, 0, 0], zoom[:, 1, 1] = size[:, 0], size[:, 1]
    zoom[:, :, 2] = centre * 2 - 1
    grid = F.affine_grid(zoom, list(pixels.shape), align_corners=False)
    background = torch.tensor(MEAN).view(3, 1, 1)
    images = F.grid_sample(pixels - background, grid, align_corners=False) + background
    corner = (centre - size / 2).repeat(1, 2)
    boxes = [(b - corner[index]) / size[index].repeat(2) for index, b in enumerate(boxes)]
    seen = [visible(c, b, (0.0, 0.0, 1.0, 1.0)) for c, b in zip(classes, boxes, strict=True)]

    joined = images.clone()
    height, width = images.shape[2:]
    for index in range(count):
        if float(uniform(0, 1)) < 0.5:
            line = float(uniform(0.25, 0.75))
            other = (index + 1) % count
            if float(uniform(0, 1)) < 0.5:
                first, second = (0.0, 0.0, line, 1.0), (line, 0.0, 1.0, 1.0)
                joined[index, :, :, round(line * width) :] = images[other, :, :, round(line * width) :]
            else:
                first, second = (0.0, 0.0, 1.0, line), (0.0, line, 1.0, 1.0)
                joined[index, :, round(line * height) :] = images[other, :, round(line * height) :]
            left, right = visible(*seen[index], first), visible(*seen[other], second)
            classes[index], boxes[index] = torch.cat([left[0], right[0]]), torch.cat([left[1], right[1]])
        else:
            classes[index], boxes[index] = seen[index]

    average = joined.mean(dim=(2, 3), keepdim=True)
    mix = torch.eye(3) + 0.06 * torch.randn(count, 3, 3, generator=random)
    images = torch.einsum("bij,bjhw->bihw", mix, joined - average) * uniform(0.7, 1.3, count, 1, 1, 1) + average
    images = images * uniform(0.8, 1.2, count, 1, 1, 1) + uniform(-0.05, 0.05, count, 3, 1, 1)
    return Batch(normalized(images.clamp(0, 1)), classes, boxes)
