"""CIFAR-10's pictures as tensors, as they are and varied for training."""

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

IMAGE_SIZE = 32
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


@dataclass
class Pictures:
    """Decoded images, uint8 [count, 3, 32, 32], and the index of each one's class in `names`."""

    pixels: Tensor
    labels: Tensor
    names: list[str]


def read_jpegs(archive: Path) -> Iterator[tuple[str, Image.Image]]:
    """Each file's class, from its folder, and its picture, in the order of their names."""
    with zipfile.ZipFile(archive) as files:
        for name in sorted(name for name in files.namelist() if name.endswith(".jpg")):
            yield name.split("/")[0], Image.open(io.BytesIO(files.read(name))).convert("RGB")


def load_pictures(archive: Path) -> Pictures:
    classes, images = zip(*read_jpegs(archive), strict=True)
    names = sorted(set(classes))
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    return Pictures(pixels.contiguous(), torch.tensor([names.index(name) for name in classes]), names)


def normalized(images: Tensor) -> Tensor:
    """From values in [0, 1] to those the model expects, float32 [batch, 3, height, width]."""
    images = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return images.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Variation:
    """How far training pictures differ from the originals."""

    stretched: float
    """The share of each batch whose proportions are changed."""
    light: float
    """How far brightness and contrast vary to either side of 1."""


def augment(pixels: Tensor, random: torch.Generator, variation: Variation, hide: bool) -> Tensor:
    """Normalised float32 [batch, 3, 32, 32] from uint8: shifted, mirrored and, to `hide`, partly covered.

    Photographs differ from CIFAR-10 in framing, proportions and light: some are stretched, and brightness and
    contrast vary.
    """
    count = len(pixels)
    images = pixels.float() / 255

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=random) * (high - low) + low

    stretched = int(count * variation.stretched)
    zoom = torch.zeros(stretched, 2, 3)
    zoom[:, 0, 0], zoom[:, 1, 1] = uniform(0.75, 1.15, stretched), uniform(0.75, 1.15, stretched)
    grid = F.affine_grid(zoom, [stretched, 3, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    images[:stretched] = F.grid_sample(images[:stretched], grid, padding_mode="reflection", align_corners=False)

    margin = 4
    padded = F.pad(images, (margin,) * 4, mode="reflect")
    line = torch.arange(IMAGE_SIZE)
    rows = torch.randint(2 * margin + 1, (count, 1), generator=random) + line
    columns = torch.randint(2 * margin + 1, (count, 1), generator=random) + line
    mirrored = torch.rand(count, generator=random) < 0.5
    columns[mirrored] = columns[mirrored].flip(1)
    one_each = torch.arange(count)[:, None, None]
    images = padded.permute(0, 2, 3, 1)[one_each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    average = images.mean(dim=(1, 2, 3), keepdim=True)
    images = (images - average) * uniform(1 - variation.light, 1 + variation.light, count, 1, 1, 1) + average
    images = images * uniform(1 - variation.light, 1 + variation.light, count, 1, 1, 1)
    images = normalized(images)

    if not hide:
        return images
    hidden = 8
    top = torch.randint(1 - hidden, IMAGE_SIZE, (count, 1), generator=random)
    left = torch.randint(1 - hidden, IMAGE_SIZE, (count, 1), generator=random)
    in_rows = (line >= top) & (line < top + hidden)
    in_columns = (line >= left) & (line < left + hidden)
    covered = in_rows[:, None, :, None] & in_columns[:, None, None, :]
    return images.masked_fill(covered, 0).contiguous(memory_format=torch.channels_last)
