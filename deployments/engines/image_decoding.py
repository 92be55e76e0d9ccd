"""A file's bytes become an upright 8-bit picture, or `InvalidImage`. Knows Pillow, not tensors or models.

Limits stand before decoding: the size is read from the header, and decodes under way together hold a reservation of
the memory that they are known to take.
"""

import io
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from deployments.errors import InvalidImage

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_FORMAT_NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF"

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TILE_WIDTH, _TILE_LENGTH = 322, 323


class DecodeLimits:
    """What decodes may take: `pixels` each, `budget_mb` (MiB) all together. Both may be set while running."""

    def __init__(self, pixels: int = 40_000_000, budget_mb: int = 512) -> None:
        self.pixels = pixels
        self.budget_mb = budget_mb
        self.reserved = 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def reservation(self, cost: int) -> Iterator[None]:
        """Hold `cost` bytes of the budget, first come first served, so that small pictures never starve a large one.

        Raises InvalidImage if the picture alone is over the budget.
        """
        if cost > self.budget_mb << 20:
            raise InvalidImage("the image takes more memory to decode than is allowed")
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(
                    lambda: (
                        self._waiting[0] is ticket
                        and (self.reserved == 0 or self.reserved + cost <= self.budget_mb << 20)
                    )
                )
                self.reserved += cost
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self.reserved -= cost
                self._changed.notify_all()


LIMITS = DecodeLimits()
"""Those of the process, for all its engines."""


def decode(
    image_data: bytes, mode: str = "RGB", at_least: int | None = None, limits: DecodeLimits = LIMITS
) -> Image.Image:
    """The upright picture in `mode` (RGB or L): the first frame, alpha over white, 16-bit samples by their high byte.

    With `at_least`, a JPEG whose sides are several times that long is decoded at a half, a quarter or an eighth of its
    size, no side shorter than `at_least` pixels. Raises InvalidImage for anything that is not a whole picture.
    """
    try:
        with Image.open(io.BytesIO(image_data), formats=FORMATS) as image:
            _check_size(image, limits)
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            with limits.reservation(_cost(image)):
                image.load()
                return _upright(_flattened(image, mode), image)
    except InvalidImage:
        raise
    except UnidentifiedImageError:
        raise InvalidImage(f"the image is not one of {_FORMAT_NAMES}, or its header is damaged") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidImage(_too_large(limits)) from None
    except Exception:  # Pillow raises nearly every kind there is on damaged files
        raise InvalidImage("the image is damaged or cut short") from None


def _too_large(limits: DecodeLimits) -> str:
    return f"the image has more than {limits.pixels / 1e6:g} million pixels"


def _check_size(image: ImageFile.ImageFile, limits: DecodeLimits) -> None:
    width, height = image.size
    if width * height > limits.pixels:
        raise InvalidImage(_too_large(limits))
    if image.format == "TIFF":
        # libtiff allocates whole tiles, however small the picture in them.
        tags = image.tag_v2  # type: ignore[attr-defined]
        if tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_LENGTH, 0) > limits.pixels:
            raise InvalidImage(_too_large(limits))


def _cost(image: ImageFile.ImageFile) -> int:
    """Bytes that decoding and converting this picture take at their peak."""
    width, height = image.size
    return width * height * 16


def _flattened(image: Image.Image, mode: str) -> Image.Image:
    """The picture in RGB or L, alpha over white."""
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bit(image).convert(mode)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB").convert(mode)
    if image.mode == "LAB":
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey with more than 8 bits as L. Integers count to 65535; floats to 1, or to 255 if any is above 1."""
    samples = np.asarray(image)
    if image.mode == "F":
        samples = np.nan_to_num(samples, nan=0.0, posinf=np.inf, neginf=0.0)
        if samples.max(initial=0.0) <= 1.0:
            samples = samples * 255.0
        return Image.fromarray((samples.clip(0, 255) + 0.5).astype(np.uint8))
    if image.mode == "I":
        samples = samples.clip(0, 65535)
    return Image.fromarray((samples >> 8).astype(np.uint8))


def _upright(picture: Image.Image, image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF says nothing about the pixels
        return picture
    turn = _UPRIGHT.get(orientation)
    return picture if turn is None else picture.transpose(turn)
