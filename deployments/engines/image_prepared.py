"""Image classifiers as OpenVINO takes them, on disk, by the content of the model and whatever made them."""

import contextlib
import functools
import hashlib
import json
import logging
import shutil
import tempfile
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch

from deployments.engines import image_openvino
from deployments.engines.image_convert import convert_in_child
from deployments.engines.image_forward import BATCH_SIZES, LIGHT_S, Compiler, Form, Forward, best_batch_size, fastest_of

logger = logging.getLogger(__name__)

MOST_BYTES = 4 << 30
"""Of all that is kept; what was not used for longest goes first."""
BASE_BYTES, BESIDE_BYTES, COMPILED_BYTES = 12 << 20, 8 << 20, 1.1
"""What OpenVINO takes for a model, for each further batch at once, and for each byte of the weights."""
_MODEL, _COMPILED, _VERDICT = "model.xml", "model.blob", "verdict.json"
_MAKERS = ("openvino", "torch", "transformers", "model-runtime")


class Shape(NamedTuple):
    """Of the work that a model is compiled for."""

    batch_size: int
    at_once: int


class Kept(NamedTuple):
    """A compiled model on disk."""

    shape: Shape
    weight_bytes: int
    digest: str
    """The file's SHA-256: what OpenVINO reads, it trusts."""


class Prepared(Compiler):
    """One model's place there, whether it was converted yet or not."""

    def __init__(self, root: Path, folder: Path, shape: torch.Size, dtype: str | None, cores: int) -> None:
        """`folder`: the model's. `shape`: of a picture, [channels, height, width]."""
        self._root = root
        self._folder = folder
        self._cores = cores
        self._place = root / _content(folder, str(tuple(shape)), str(dtype), str(cores), image_openvino.machine())

        self.in_vain: str | None = None
        self._kept: Kept | None = None
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            self._recall()

    def _recall(self) -> None:
        kept = json.loads((self._place / _VERDICT).read_bytes())
        self._place.touch()
        if kept["batch_size"]:
            shape = Shape(int(kept["batch_size"]), int(kept["at_once"]))
            self._kept = Kept(shape, int(kept["weight_bytes"]), str(kept["digest"]))
        else:
            self.in_vain = str(kept["note"])

    def found(self) -> Form | None:
        if self._kept is None:
            return None
        try:
            return self._read(self._kept)
        except Exception:
            logger.warning("what was kept of a converted model cannot be read: it is made again", exc_info=True)
            shutil.rmtree(self._place, ignore_errors=True)
            return None

    def prepare(self, example: torch.Tensor) -> None:
        if (self._place / _MODEL).exists():
            return
        draft = Path(tempfile.mkdtemp(dir=self._root))
        try:
            convert_in_child(self._folder, tuple(example.shape), draft / _MODEL)
            with contextlib.suppress(OSError):  # another replica was first
                draft.rename(self._place)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        with contextlib.suppress(OSError):  # another replica does the same
            self._make_room()

    def compile(self, forward: Forward, example: torch.Tensor) -> Form:
        sizes = BATCH_SIZES["cpu"]
        # Made for one picture, it takes less than one of many would; that is made only where batches are tried.
        form_of = functools.cache(self._compiled)
        size = best_batch_size(
            lambda size: forward.beside(form_of(Shape(1 if size == 1 else sizes[-1], 1))), example, sizes
        )
        if size == 1 and self._cores > 1:
            side_by_side = form_of(Shape(1, self._cores))
            if fastest_of(partial(forward.beside(side_by_side), [example])) <= LIGHT_S:
                return side_by_side
        return form_of(Shape(size, 1))

    def settle(self, form: Form) -> None:
        """What an earlier load has found out is there whole or not at all."""
        taken = form.logits if isinstance(form.logits, image_openvino.Compiled) else None
        with contextlib.suppress(OSError, RuntimeError):  # it cannot be kept: the next load finds it out again
            self._place.mkdir(exist_ok=True)
            verdict: dict[str, object] = {"note": form.note, "batch_size": 0}
            if taken:
                verdict |= {"batch_size": form.batch_size, "at_once": form.at_once}
                verdict |= {"weight_bytes": taken.weight_bytes, "digest": self._keep(taken.to_keep())}
            draft = self._place / f"{_VERDICT}.draft"
            draft.write_text(json.dumps(verdict))
            draft.replace(self._place / _VERDICT)
            if not taken:
                for file in self._place.glob("model.*"):
                    file.unlink()

    def _compiled(self, shape: Shape) -> Form:
        batch_size, at_once = shape
        return _form(image_openvino.Compiled.of(self._place / _MODEL, batch_size, self._cores, at_once), shape)

    def _read(self, kept: Kept) -> Form:
        content = (self._place / _COMPILED).read_bytes()
        if hashlib.sha256(content).hexdigest() != kept.digest:
            raise ValueError("it was damaged")
        compiled = image_openvino.Compiled.read(content, self._cores, kept.shape.at_once, kept.weight_bytes)
        return _form(compiled, kept.shape)

    def _keep(self, content: bytes) -> str:
        draft = self._place / f"{_COMPILED}.draft"
        draft.write_bytes(content)
        draft.replace(self._place / _COMPILED)
        return hashlib.sha256(content).hexdigest()

    def _make_room(self) -> None:
        kept = 0
        for place in sorted(self._root.iterdir(), key=lambda place: place.stat().st_mtime, reverse=True):
            kept += sum(file.stat().st_size for file in place.iterdir())
            if kept > MOST_BYTES and place != self._place:
                shutil.rmtree(place, ignore_errors=True)


def _form(compiled: image_openvino.Compiled, shape: Shape) -> Form:
    resident_bytes = BASE_BYTES + BESIDE_BYTES * (shape.at_once - 1) + int(COMPILED_BYTES * compiled.weight_bytes)
    return Form(compiled, "OpenVINO", resident_bytes, shape.batch_size, shape.at_once, own_threads=True)


def _content(folder: Path, *options: str) -> str:
    seen = hashlib.sha256(json.dumps([*options, *(version(maker) for maker in _MAKERS)]).encode())
    for file in sorted((folder / "config.json", *folder.glob("*.safetensors*"))):
        seen.update(file.name.encode())
        with file.open("rb") as stream:
            seen.update(hashlib.file_digest(stream, "sha256").digest())
    return seen.hexdigest()[:32]
