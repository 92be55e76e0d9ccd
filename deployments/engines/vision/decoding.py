"""Decodes an image file (JPEG, PNG, WebP, GIF, BMP, TIFF) into an upright 8-bit image. Knows Pillow, not tensors.

`decoded` is the entry. It checks the header before it decodes, and reserves the memory that such files were measured to
take, so that the decodes under way stay within one budget.
"""

import io
import re
import struct
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from deployments.contract.errors import InvalidImage

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_NO_IMAGE = "the image is not one of JPEG, PNG, WebP, GIF, BMP, TIFF, or its header is damaged"
_DAMAGED = "the image is damaged or cut short"

_BYTES_PER_PIXEL = {"JPEG": 8, "MPO": 8, "PNG": 8, "GIF": 8, "BMP": 8, "WEBP": 20, "TIFF": 12}
"""Measured at 12 megapixels, turned upright; `_ALPHA` and `_DEEP` are added (tests: vision/test_large.py)."""
_ALPHA, _DEEP, _PROGRESSIVE = 8, 12, 6

_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
_SCAN = int.from_bytes(_START_OF_SCAN, "little")
# A marker that begins a segment: neither an escaped FF, nor a filler, nor a restart within a scan.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_MOST_SEGMENTS = 10_000
_MOST_SCANS = 100
"""A progressive JPEG may have any number of scans, each of 50 bytes and 2 ms or more; real files have about 10."""
_RUN_LENGTH_PIXELS, _RUN_LENGTH_BYTES = 2_000_000, 1_000_000
"""Pillow decodes run-length BMPs in Python: beyond these some take over a second."""

_SEGMENT = struct.Struct(">BBHBHH")
"""A JPEG's marker, the length behind it, and what a frame begins with: bits, height, width."""
_FRAMES, _BEFORE_THE_SCAN = range(0xC0, 0xC3), frozenset((0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))

_SMALL_BYTES, _SMALL_PIXELS = 8_192, 20_000
_PACKED_TEXT = (b"zTXt", b"iTXt")
"""Pillow unpacks a PNG's texts as it opens it: 32 kB of them take 0.1 s."""

_ORIENTATION = 0x0112
_TURN = Image.Transpose
_MIRRORED = {2: _TURN.FLIP_LEFT_RIGHT, 4: _TURN.FLIP_TOP_BOTTOM, 5: _TURN.TRANSPOSE, 7: _TURN.TRANSVERSE}
_UPRIGHT = _MIRRORED | {3: _TURN.ROTATE_180, 6: _TURN.ROTATE_270, 8: _TURN.ROTATE_90}
_ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH = 278, 322, 323


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
        """Hold `cost` bytes of the budget, first come first served, so that small images never starve a large one.

        Raises InvalidImage if the image alone is over the budget.
        """
        if cost > self.budget_mb << 20:
            raise InvalidImage("the image takes more memory to decode than is allowed")
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(lambda: self._waiting[0] is ticket and self._fits(cost))
            self._waiting.popleft()
            self.reserved += cost
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self.reserved -= cost
                self._changed.notify_all()

    def _fits(self, cost: int) -> bool:
        return self.reserved == 0 or self.reserved + cost <= self.budget_mb << 20


LIMITS = DecodeLimits()
"""Of this process, for all its engines."""


@contextmanager
def decoded(
    image_data: bytes,
    mode: str = "RGB",
    at_least: int | None = None,
    bytes_per_pixel: int = 0,
    limits: DecodeLimits = LIMITS,
) -> Iterator[Image.Image]:
    """The upright image in `mode` (RGB or L): the first frame, alpha over white, 16-bit samples by their high byte.

    With `at_least`, a JPEG whose sides are several times that long is decoded at a half, a quarter or an eighth of its
    size: no side shorter than `at_least` pixels, and both without a remainder. The reservation is held until the block
    ends: `bytes_per_pixel` is what the block takes beside the image. Raises InvalidImage for anything that is not a
    whole image.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # a library of this process may have set it
    with _pillow_errors(limits):
        opened = Image.open(io.BytesIO(image_data), formats=FORMATS)
        _check(opened, image_data, limits)
        # The coefficients of a progressive JPEG are all held, at whatever size it is decoded.
        undecoded = opened.width * opened.height * _PROGRESSIVE if opened.info.get("progressive") else 0
        if at_least is not None:
            _draft(opened, at_least)
        pixels = opened.width * opened.height
    with limits.reservation(undecoded + pixels * (_bytes_per_pixel(opened) + bytes_per_pixel)):
        with _pillow_errors(limits):
            opened.load()
            image = _upright(_flattened(opened, mode), opened)
        del opened  # it may be as large as the image
        yield image


def is_small(image_data: bytes) -> bool:
    """Whether decoding takes about as long as handing the file to another thread, by its length and its header."""
    if len(image_data) > _SMALL_BYTES or any(kind in image_data for kind in _PACKED_TEXT):
        return False
    if (pixels := _jpeg_pixels(image_data)) is None:
        try:
            image = Image.open(io.BytesIO(image_data), formats=FORMATS)
        except Exception:  # to be refused at once
            return True
        pixels = image.width * image.height
    return pixels <= _SMALL_PIXELS


def _jpeg_pixels(image_data: bytes) -> int | None:
    """By the header of a JPEG, in a tenth of Pillow's time. None where it is not one of the usual segments alone."""
    at, pixels = 2, 0
    while image_data.startswith(b"\xff\xd8") and at + 9 <= len(image_data) and image_data[at] == 0xFF:
        _, marker, length, _, height, width = _SEGMENT.unpack_from(image_data, at)
        if marker == _START_OF_SCAN[1]:
            return pixels or None
        if marker in _FRAMES:
            pixels = max(pixels, height * width)
        elif marker not in _BEFORE_THE_SCAN:
            return None
        at += 2 + length
    return None


@contextmanager
def _pillow_errors(limits: DecodeLimits) -> Iterator[None]:
    try:
        yield
    except InvalidImage:
        raise
    except UnidentifiedImageError:
        raise InvalidImage(_NO_IMAGE) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidImage(_too_large(limits)) from None
    except Exception:  # Pillow raises nearly every kind there is on damaged files
        raise InvalidImage(_DAMAGED) from None


def _check(image: ImageFile.ImageFile, image_data: bytes, limits: DecodeLimits) -> None:
    """Refuse by the header what would take too much to decode."""
    pixels, pieces = image.width * image.height, 1
    if image.format == "TIFF":
        # libtiff allocates whole tiles, however small the image in them.
        tags = image.tag_v2  # type: ignore[attr-defined]
        tile = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)
        pixels = max(pixels, tile[0] * tile[1])
        # Strips or tiles: each may be a JPEG of its own.
        width, height = tile if all(tile) else (image.width, tags.get(_ROWS_PER_STRIP, image.height))
        pieces = -(-image.width // width) * -(-image.height // height)
    if pixels > limits.pixels:
        raise InvalidImage(_too_large(limits))
    jpeg = image.format in ("JPEG", "MPO") or image.info.get("compression") in ("jpeg", "tiff_jpeg")
    many = jpeg and _possible_scans(image_data) > _MOST_SCANS * pieces
    if many and (image.format == "TIFF" or _scans(image_data) > _MOST_SCANS):
        raise InvalidImage(f"the image has more than {_MOST_SCANS} scans")
    run_length = image.format == "BMP" and bool(image.tile) and image.tile[0].codec_name == "bmp_rle"
    if run_length and (pixels > _RUN_LENGTH_PIXELS or len(image_data) > _RUN_LENGTH_BYTES):
        raise InvalidImage("the image is a run-length encoded BMP of more than 2 million pixels or 1 MB")


def _draft(image: ImageFile.ImageFile, at_least: int) -> None:
    for divisor in (8, 4, 2):
        # A remainder makes up a row or a column, and a resize of the whole would shift everything by parts of a pixel.
        if not image.width % divisor and not image.height % divisor and min(image.size) >= at_least * divisor:
            image.draft(None, (image.width // divisor, image.height // divisor))
            return


def _possible_scans(image_data: bytes) -> int:
    """How often the bytes FF DA follow each other. Compared as 16-bit words: a tenth of the time of `bytes.count`."""
    pairs = [np.frombuffer(image_data, "<u2", (len(image_data) - begin) // 2, begin) for begin in (0, 1)]
    return sum(int(np.count_nonzero(pair == _SCAN)) for pair in pairs)


def _scans(jpeg: bytes) -> int:
    """The scans of the picture that a JPEG begins with, in so far as they matter. Raises InvalidImage."""
    scans, at = 0, 2
    for _ in range(_MOST_SEGMENTS):
        marker = _MARKER.search(jpeg, at)
        if marker is None or marker[0] == _END_OF_IMAGE or scans > _MOST_SCANS:
            return scans
        scans += marker[0] == _START_OF_SCAN
        at = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2])
    raise InvalidImage(f"the image has more than {_MOST_SEGMENTS} segments")


def _too_large(limits: DecodeLimits) -> str:
    return f"the image has more than {limits.pixels / 1e6:g} million pixels"


def _bytes_per_pixel(image: ImageFile.ImageFile) -> int:
    alpha = _ALPHA if image.has_transparency_data else 0
    deep = _DEEP if image.mode.startswith(("I", "F")) else 0
    return _BYTES_PER_PIXEL[image.format or ""] + alpha + deep


def _flattened(image: Image.Image, mode: str) -> Image.Image:
    """The image in RGB or L, alpha over white."""
    if image.mode.startswith(("I", "F")):
        image = _eight_bit(image)
    elif image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", rgba.size, "white")
        image.paste(rgba, mask=rgba)
    elif image.mode == "LAB":
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey with more than 8 bits as L. Integers count to 65535; floats to 1, or to 255 if any is above 1."""
    samples = np.asarray(image)
    if image.mode == "F":
        samples = np.nan_to_num(samples, nan=0.0, posinf=255.0, neginf=0.0)
        whole = 255.0 if samples.max() <= 1.0 else 1.0
        return Image.fromarray((samples * whole).clip(0, 255).round().astype(np.uint8))
    eight = (samples.clip(0, 65535) >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        eight[samples == transparent] = 255
    return Image.fromarray(eight)


def _upright(image: Image.Image, opened: Image.Image) -> Image.Image:
    with suppress(Exception):  # the pixels may be whole where the EXIF data are damaged
        if (turn := _UPRIGHT.get(opened.getexif().get(_ORIENTATION, 1))) is not None:
            return image.transpose(turn)
    return image
