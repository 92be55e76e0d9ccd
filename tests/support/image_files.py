"""Images as files of every kind, and the pixels that come of them."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from deployments.engines.vision.decoding import decoded

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def pixels(image_data: bytes, mode: str = "RGB") -> np.ndarray:
    """uint8 [height, width, 3] or [height, width]."""
    with decoded(image_data, mode) as image:
        assert image.mode == mode
        return np.asarray(image).copy()


def colours(image_data: bytes) -> list[list[tuple[int, ...]]]:
    return [[tuple(pixel) for pixel in row] for row in pixels(image_data).tolist()]


def photo(width: int = 64, height: int = 48, mode: str = "RGB") -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across], axis=-1).astype(np.uint8)).convert(mode)


def two_by_one(mode: str, left: int | tuple[int, ...], right: int | tuple[int, ...]) -> Image.Image:
    image = Image.new(mode, (2, 1))
    image.putpixel((0, 0), left)
    image.putpixel((1, 0), right)
    return image


FILES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG": lambda image: encoded(image, "JPEG", quality=90),
    "progressive JPEG": lambda image: encoded(image, "JPEG", progressive=True),
    "PNG": lambda image: encoded(image, "PNG"),
    "WebP": lambda image: encoded(image, "WEBP"),
    "lossless WebP": lambda image: encoded(image, "WEBP", lossless=True),
    "GIF": lambda image: encoded(image, "GIF"),
    "BMP": lambda image: encoded(image, "BMP"),
    "TIFF": lambda image: encoded(image, "TIFF"),
    "LZW TIFF": lambda image: encoded(image, "TIFF", compression="tiff_lzw"),
}
