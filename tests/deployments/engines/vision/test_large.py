"""Twelve megapixels of every format and kind: within a second and what was reserved, and nothing is kept."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import PROJECT
from tests.support.image_files import encoded

SIZE = (4000, 3000)
FEW_MB = 8


@pytest.fixture(scope="module")
def noisy() -> Image.Image:
    """Noise over a gradient, as hard to pack as a photo."""
    gradient = Image.linear_gradient("L").resize(SIZE)
    noise = Image.effect_noise(SIZE, 24)
    return Image.merge("RGB", [Image.blend(gradient, noise, 0.5), gradient, noise])


def deep(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.getchannel("R")).astype(np.uint16) << 8)


def floats(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.getchannel("R")).astype(np.float32) / 255)


def lying() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG": lambda image: encoded(image, "JPEG", quality=90, exif=lying()),
    "progressive JPEG": lambda image: encoded(image, "JPEG", quality=90, progressive=True, exif=lying()),
    "CMYK JPEG": lambda image: encoded(image.convert("CMYK"), "JPEG", quality=90),
    "PNG": lambda image: encoded(image, "PNG", compress_level=1, exif=lying()),
    "RGBA PNG": lambda image: encoded(image.convert("RGBA"), "PNG", compress_level=1, exif=lying()),
    "PNG of sixteen bits": lambda image: encoded(deep(image), "PNG", compress_level=1),
    "PNG with a palette": lambda image: encoded(image.quantize(64, 2), "PNG", compress_level=1),
    "WebP": lambda image: encoded(image, "WEBP", method=0, exif=lying()),
    "RGBA WebP": lambda image: encoded(image.convert("RGBA"), "WEBP", method=0),
    "lossless WebP": lambda image: encoded(image, "WEBP", lossless=True, method=0, quality=0),
    "GIF": lambda image: encoded(image.quantize(64, 2), "GIF"),
    "BMP": lambda image: encoded(image, "BMP"),
    "TIFF": lambda image: encoded(image, "TIFF", exif=lying()),
    "LZW TIFF": lambda image: encoded(image, "TIFF", compression="tiff_lzw"),
    "JPEG TIFF": lambda image: encoded(image, "TIFF", compression="jpeg"),
    "TIFF of floats": lambda image: encoded(floats(image), "TIFF"),
    "LAB TIFF": lambda image: encoded(Image.frombytes("LAB", SIZE, image.tobytes()), "TIFF"),
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", KINDS)
def test_a_large_file_takes_no_longer_than_a_second_nor_more_than_its_reservation(
    tmp_path: Path, noisy: Image.Image, kind: str
) -> None:
    (tmp_path / "file").write_bytes(KINDS[kind](noisy))
    command = [sys.executable, "-m", "tests.support.twelve_megapixels", str(tmp_path / "file")]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True, timeout=120)
    took = json.loads(run.stdout)
    assert took["seconds"] < 1
    assert took["peak_mb"] < took["reserved_mb"] + FEW_MB
    assert took["left_mb"] == 0
    assert took["grown_mb"] < FEW_MB
