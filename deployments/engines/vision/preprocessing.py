"""Preprocesses a decoded image into the pixel values that the model was trained on. Knows processors, not weights.

The model's own processor is the reference. `DirectPreprocessing` does the same in one resize and one multiply-add. It
replaces a processor only where both gave the same for all `reference_images`.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor

from deployments.contract.errors import InvalidImage, ModelLoadFailed
from deployments.engines.probes import ProbeCache
from deployments.engines.vision.inputs import Inputs, Item

logger = logging.getLogger(__name__)

MOST_PIXELS_OUT = 4 << 20
"""Where the result's size follows from the image: one of 1 × 40,000 pixels would become 256 × 10 million."""


@dataclass(frozen=True)
class Geometry:
    """Where a processor's pixels come from: `resized(width, height)` gives (width, height); then a centre crop."""

    resized: Callable[[int, int], tuple[int, int]]
    """Raises InvalidImage."""
    resample: int
    crop: tuple[int, int] | None
    """(width, height)"""


def load_processor(folder: Path) -> Any:
    """The library's, by preprocessor_config.json or processor_config.json."""
    return AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_preprocessing(folder: Path, channels: int, probes: ProbeCache) -> "LibraryPreprocessing | DirectPreprocessing":
    """The fastest preprocessing that does what the folder's processor does.

    Takes any preprocessor_config.json or processor_config.json, the old `feature_extractor_type` included.
    """
    processor = load_processor(folder)
    if channels == 1:
        _make_one_channel(processor)
    library = LibraryPreprocessing(processor, channels)
    known = probes.recall("preprocessing")
    for read in (_plain_geometry, _convnext_geometry):
        geometry = read(processor) if known in (None, read.__name__) else None
        if geometry is None:
            continue
        direct = DirectPreprocessing.measured(library, geometry)
        if direct is not None and (known or _same(direct, library)):
            probes.remember("preprocessing", read.__name__, known)
            return direct
    probes.remember("preprocessing", "the library's", known)
    return library


class LibraryPreprocessing:
    """The model's own processor, as the library runs it."""

    note = "preprocessing: the library's processor"
    bytes_per_pixel = 14  # arrays and back, in both orders of the channels

    def __init__(self, processor: Any, channels: int) -> None:
        self.mode = "L" if channels == 1 else "RGB"
        self.at_least = _at_least(processor)
        self._processor = processor
        self._geometry = _plain_geometry(processor)

    def __call__(self, image: Image.Image) -> Item:
        if self._geometry is not None:
            self._geometry.resized(*image.size)  # Refuses what would grow beyond all bounds.
        inputs = self._processor(images=image, return_tensors="pt")
        if set(inputs) == {"pixel_values"}:
            pixel_values: torch.Tensor = inputs["pixel_values"][0]
            return pixel_values.float()  # They are whole numbers where nothing is rescaled.
        return Inputs({name: torch.as_tensor(values)[0] for name, values in inputs.items()})


@dataclass(frozen=True)
class DirectPreprocessing:
    """Resize, crop, then `samples * scale + offset`, channel by channel.

    NumPy and Pillow only: a torch operation of this size would start an OpenMP pool in each decoding thread.
    """

    mode: str
    at_least: int | None
    geometry: Geometry
    affine: np.ndarray
    """Float32 [2, channels], scale and offset."""
    note = "preprocessing: direct, equal to the library's processor"
    bytes_per_pixel = 1

    @classmethod
    def measured(cls, library: LibraryPreprocessing, geometry: Geometry) -> "DirectPreprocessing | None":
        """Scale and offset as they come out of the processor for a black and a white image."""
        both: list[Any] = [library(Image.new(library.mode, (64, 64), colour)) for colour in ("black", "white")]
        if any(isinstance(made, Inputs) or made.ndim != 3 or len(made) != len(library.mode) for made in both):
            return None  # patches, several crops or other things than pixels
        low, high = (made[:, made.shape[1] // 2, made.shape[2] // 2].double().numpy() for made in both)
        affine = np.stack([(high - low) / 255.0, low]).astype(np.float32)
        return cls(library.mode, library.at_least, geometry, affine)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        kept = self._kept(image)
        values = np.empty((len(self.mode), kept.height, kept.width), np.float32)
        for plane, band, scale, offset in zip(values, kept.split(), *self.affine, strict=True):
            np.multiply(np.asarray(band), scale, out=plane)
            plane += offset
        return torch.from_numpy(values)

    def _kept(self, image: Image.Image) -> Image.Image:
        """What remains of `image`, 8 bits a sample, after resize and centre crop; black where the crop is wider."""
        size, crop = self.geometry.resized(*image.size), self.geometry.crop
        # Pillow's own resize of all of the image, so that it stays equal with every Pillow: doing only what the crop
        # keeps (by `box`, or one direction after the other) saves 0.3 ms, but rounds some pixels otherwise.
        kept = image.resize(size, self.geometry.resample)
        if crop is None:
            return kept
        left, top = (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2
        return kept.crop((left, top, left + crop[0], top + crop[1]))


@dataclass(frozen=True)
class FixedSizePreprocessing:
    """For a processor that does not resize, and a model that takes images of one size only."""

    inner: LibraryPreprocessing | DirectPreprocessing
    size: tuple[int, int]
    """(width, height)"""
    at_least = None

    @property
    def mode(self) -> str:
        return self.inner.mode

    @property
    def note(self) -> str:
        return f"{self.inner.note}; images of {self.size[0]}×{self.size[1]} only"

    @property
    def bytes_per_pixel(self) -> int:
        return self.inner.bytes_per_pixel

    def __call__(self, image: Image.Image) -> Item:
        if image.size != self.size:
            wanted, got = (f"{width}×{height}" for width, height in (self.size, image.size))
            raise InvalidImage(f"the model takes images of {wanted} pixels, without resizing; this one has {got}")
        return self.inner(image)


Preprocessing = LibraryPreprocessing | DirectPreprocessing | FixedSizePreprocessing
"""`mode`: of the images that it takes, RGB or L. `at_least`: the sides that an image should still have when it was
decoded smaller than it is, in pixels; None where every pixel counts. `bytes_per_pixel`: what a call takes, which raises
InvalidImage."""


def preprocessed(image: Image.Image, preprocessing: Preprocessing) -> Item:
    """Ready for the forward. Raises InvalidImage, for whatever reason it cannot be."""
    try:
        return preprocessing(image)
    except InvalidImage:
        raise
    except Exception:  # a shape that the library's processor cannot take
        logger.warning("preprocessing failed for a %dx%d image", *image.size, exc_info=True)
        raise InvalidImage("the image has a shape that the model's preprocessing cannot take") from None


def _plain_geometry(processor: Any) -> Geometry | None:
    """Resize, then crop, as most processors have it."""
    size = getattr(processor, "size", None)
    crop = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", None) else None
    resample = int(getattr(processor, "resample", None) or 0)
    kept = None if crop is None or not crop.height or not crop.width else (int(crop.width), int(crop.height))
    if not getattr(processor, "do_resize", None):
        return Geometry(_as_it_is, resample, kept)
    if size is None:
        return None
    if size.height and size.width:
        fixed = (int(size.width), int(size.height))
        return Geometry(lambda width, height: fixed, resample, kept)
    if size.shortest_edge and not size.longest_edge:
        return Geometry(_shortest_edge(int(size.shortest_edge)), resample, kept)
    return None


def _convnext_geometry(processor: Any) -> Geometry | None:
    """ConvNeXt, ResNet, RegNet: below 384 a share `crop_pct` of the short side is kept, else all is squeezed."""
    size, share = getattr(processor, "size", None), getattr(processor, "crop_pct", None)
    edge = getattr(size, "shortest_edge", None)
    if not edge or not share or not getattr(processor, "do_resize", None):
        return None
    resample = int(getattr(processor, "resample", None) or 0)
    if edge >= 384:
        return Geometry(lambda width, height: (edge, edge), resample, None)
    return Geometry(_shortest_edge(int(edge / share)), resample, (edge, edge))


def _shortest_edge(edge: int) -> Callable[[int, int], tuple[int, int]]:
    def resized(width: int, height: int) -> tuple[int, int]:
        longest = int(edge * max(width, height) / min(width, height))
        return _not_too_large(edge, longest) if width <= height else _not_too_large(longest, edge)

    return resized


def _at_least(processor: Any) -> int | None:
    """Twice the sides that the processor asks for, so that its own resize still averages over pixels."""
    size = getattr(processor, "size", None)
    if not getattr(processor, "do_resize", None) or size is None:
        return None
    sides = [side for side in (size.height, size.width, size.shortest_edge, size.longest_edge) if side]
    share = getattr(processor, "crop_pct", None) or 1.0
    return int(2 * max(sides) / share) if sides else None


def _as_it_is(width: int, height: int) -> tuple[int, int]:
    if width * height > MOST_PIXELS_OUT:
        raise InvalidImage(f"the model does not resize images, and takes none of more than {MOST_PIXELS_OUT} pixels")
    return width, height


def _not_too_large(width: int, height: int) -> tuple[int, int]:
    if width * height > MOST_PIXELS_OUT:
        raise InvalidImage("the image is too narrow for this model")
    return width, height


def _make_one_channel(processor: Any) -> None:
    """Processors are configured for colour by default; a grey image needs one mean, one deviation, no conversion."""
    if getattr(processor, "do_convert_rgb", None):
        processor.do_convert_rgb = False
    for name in ("image_mean", "image_std"):
        values = getattr(processor, name, None)
        if isinstance(values, list | tuple) and len(set(values)) == 1:
            setattr(processor, name, tuple(values[:1]))


def _same(direct: DirectPreprocessing, library: LibraryPreprocessing) -> bool:
    """Whether each pixel of each reference image is the library's, but for the rounding of float32."""
    rounding = float(np.abs(direct.affine[0]).max()) / 1000  # a thousandth of one step of 8 bits
    for image in reference_images(library.mode):
        expected: Any = library(image)
        got = direct(image)
        if not (expected.shape == got.shape and torch.allclose(expected, got, rtol=0, atol=rounding)):
            return False
    return True


def configured_size(config: Any) -> tuple[int, int]:
    """(width, height) of the images that a model is configured for. Raises ModelLoadFailed."""
    size = getattr(config, "image_size", None) or getattr(getattr(config, "vision_config", None), "image_size", None)
    sides = [size, size] if isinstance(size, int) else size
    if not isinstance(sides, list | tuple) or len(sides) != 2:
        raise ModelLoadFailed("the processor does not resize images, and the model does not say which size it takes")
    return int(sides[1]), int(sides[0])


def reference_images(mode: str) -> Iterator[Image.Image]:
    """Noise over gradients: wide, high, odd, smaller than any crop, and already of the usual sizes."""
    noise = np.random.default_rng(0)
    for width, height in ((320, 240), (241, 397), (640, 121), (97, 61), (30, 90), (256, 256), (224, 224)):
        across, down = np.meshgrid(np.linspace(0, 200, width), np.linspace(0, 200, height))
        gradients = np.stack([across, down, 200 - across], axis=-1)
        samples = (gradients + noise.integers(0, 56, gradients.shape)).astype(np.uint8)
        yield Image.fromarray(samples).convert(mode)
