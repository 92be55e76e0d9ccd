"""`parity`: whether the engine answers pictures of every size and format as transformers does, and what that costs."""

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoModelForImageClassification

from benchmarks.environment import FOLDER
from benchmarks.models import clouds, save_mobilenet_v1, save_resnet, save_vit
from benchmarks.report import Claims
from benchmarks.vision.formats import FORMATS
from deployments.engines.vision.decoding import decoded
from deployments.engines.vision.engine import ImageClassificationEngine
from deployments.system.artifact_cache import ArtifactCache

LONG_SIDES = (200, 333, 500, 801, 1250, 1999, 2836, 4000)
"""Odd ones too: sizes that neither 2 nor 8 divides."""
WITHIN = 0.01
PHOTOS = ("*.jpg", "*.jpeg", "*.png", "*.webp")
MADE = 3
TIMES = 5


@dataclass
class Subject:
    """One model, in our engine and in transformers, and how far they were apart."""

    engine: ImageClassificationEngine
    processor: Any
    model: Any
    furthest: float = 0.0
    other_labels: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, folder: Path, cache: ArtifactCache) -> "Subject":
        engine = ImageClassificationEngine.load(folder, cache=cache)
        engine.settled.wait()
        model = AutoModelForImageClassification.from_pretrained(folder)
        return cls(engine, AutoImageProcessor.from_pretrained(folder), model.eval())

    @torch.inference_mode()
    def compare(self, name: str, file: bytes, image: Image.Image) -> None:
        """`image`: `file` as transformers' pipeline reads it."""
        (ours,) = self.engine.classify([file])
        if not isinstance(ours, np.ndarray):
            raise ours
        inputs = self.processor(images=image, return_tensors="pt")
        theirs = self.model(**inputs).logits.softmax(-1)[0].numpy()
        self.furthest = max(self.furthest, float(np.abs(ours - theirs).max()))
        if ours.argmax() != theirs.argmax():
            self.other_labels.append(name)


def run(photos: Path | None, source: Path | None) -> Claims:
    """`photos`: a folder of them; None makes pictures. `source`: the folder of one more model."""
    makers: dict[str, Callable[[Path], Path]] = {
        "random ViT at 224": save_vit,
        "random ResNet at 224": save_resnet,
        "random MobileNetV1 at 192": save_mobilenet_v1,
    }
    bundled = FOLDER.parent / "models" / "image_classifier_v1"
    with tempfile.TemporaryDirectory() as name:
        folders = {bundled.name: bundled, **({source.name: source} if source else {})}
        folders |= {kind: make(Path(name) / str(number)) for number, (kind, make) in enumerate(makers.items())}
        cache = ArtifactCache(Path(name) / "cache", 1 << 30)
        subjects = {kind: Subject.load(folder, cache) for kind, folder in folders.items()}
        count = 0
        for picture, file in _files(photos):
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")
            for subject in subjects.values():
                subject.compare(picture, file, image)
            count += 1
    rows: list[tuple[str, str, str]] = []
    for kind, subject in subjects.items():
        rows.append((f"{kind}: other top labels", str(len(subject.other_labels)), "0"))
        rows.append((f"{kind}: largest difference of a probability", f"{subject.furthest:.1g}", str(WITHIN)))
    failed = any(subject.other_labels or subject.furthest > WITHIN for subject in subjects.values())
    others = [f"Another label: {kind}, {name}." for kind, of in subjects.items() for name in of.other_labels]
    notes = [
        f"{count} files of {'photos' if photos else f'{MADE} made pictures'}, long sides of "
        f"{', '.join(map(str, LONG_SIDES))} pixels, each as {', '.join(FORMATS)}.",
        *others,
    ]
    return Claims("The same answers as transformers", rows + _costs(), notes, failed)


def _files(photos: Path | None) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each picture in each size and format."""
    for name, picture in _pictures(photos):
        for long_side in LONG_SIDES:
            share = long_side / max(picture.size)
            size = (round(picture.width * share), round(picture.height * share))
            resized = picture.resize(size, Image.Resampling.LANCZOS)
            for kind, save in FORMATS.items():
                yield f"{name}, {long_side} pixels, {kind}", save(resized)


def _pictures(photos: Path | None) -> Iterator[tuple[str, Image.Image]]:
    if photos is None:
        yield from ((f"picture {seed}", clouds(1200, 900, seed)) for seed in range(MADE))
        return
    files = sorted(file for pattern in PHOTOS for file in photos.glob(pattern))
    if not files:
        raise SystemExit(f"{photos} holds no photos")
    yield from ((file.name, Image.open(file).convert("RGB")) for file in files)


def _costs() -> list[tuple[str, str, str]]:
    """CPU time of decoding 12 megapixels and resizing them to 341×256, in full and at a part of the size."""
    file = FORMATS["JPEG"](clouds(4000, 3000, seed=20))
    rows = []
    for name, at_least in (("in full", None), ("draft_decoding", 512)):
        took = min(_took(file, at_least) for _ in range(TIMES))
        rows.append((f"{len(file) / 1e6:.1f} MB of JPEG, 12 megapixels, {name}", f"{took * 1e3:.0f} ms", ""))
    return rows


def _took(file: bytes, at_least: int | None) -> float:
    start = time.thread_time()
    with decoded(file, at_least=at_least) as image:
        image.resize((341, 256), Image.Resampling.BILINEAR)
    return time.thread_time() - start
