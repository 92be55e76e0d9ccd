"""Image classifiers as OpenVINO runs them, on disk, by the content of the model and whatever made them."""

import contextlib
import hashlib
import json
import logging
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

from deployments.engines.vision import openvino_runner
from deployments.engines.vision.forward import Compiler, Form, Forward
from deployments.engines.vision.openvino_compile import ABOUT, BLOB, Kept, Shape, form_of, make_in_child

logger = logging.getLogger(__name__)

MOST_BYTES = 4 << 30
"""Of all that is kept; what was not used for longest goes first."""
_VERDICT = "verdict.json"
_MAKERS = ("openvino", "torch", "transformers", "model-runtime")


class Prepared(Compiler):
    """One model's place there, whether it was made yet or not."""

    tunes = True

    def __init__(self, root: Path, folder: Path, shape: torch.Size, dtype: str | None, cores: int) -> None:
        """`folder`: the model's. `shape`: of a picture, [channels, height, width]."""
        self._root = root
        self._folder = folder
        self._cores = cores
        self._place = root / _content(folder, str(tuple(shape)), str(dtype), str(cores), openvino_runner.machine())

        self.in_vain: str | None = None
        self._approved = False
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            self._recall()

    def _recall(self) -> None:
        verdict = json.loads((self._place / _VERDICT).read_bytes())
        self._place.touch()
        if verdict["taken"]:
            self._approved = True
        else:
            self.in_vain = str(verdict["note"])

    def found(self) -> Form | None:
        return self._read() if self._approved else None

    def prepare(self, example: torch.Tensor) -> None:
        if (self._place / ABOUT).exists():
            return
        draft = Path(tempfile.mkdtemp(dir=self._root))
        try:
            make_in_child(self._folder, tuple(example.shape), self._cores, draft)
            if not (self._place / ABOUT).exists():  # else another replica was first
                shutil.rmtree(self._place, ignore_errors=True)
                draft.rename(self._place)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        with contextlib.suppress(OSError):  # another replica does the same
            self._make_room()

    def compile(self, forward: Forward, example: torch.Tensor) -> Form:
        form = self._read()
        if form is None:
            raise OSError("what was made cannot be read")
        return form

    def settle(self, form: Form) -> None:
        """What an earlier load has found out is there whole or not at all."""
        taken = isinstance(form.logits, openvino_runner.Compiled)
        with contextlib.suppress(OSError):  # it cannot be kept: the next load finds it out again
            self._place.mkdir(exist_ok=True)
            draft = self._place / f"{_VERDICT}.draft"
            draft.write_text(json.dumps({"note": form.note, "taken": taken}))
            draft.replace(self._place / _VERDICT)
            if not taken:
                for file in self._place.glob("model.*"):
                    file.unlink()

    def _read(self) -> Form | None:
        """None where it is damaged: its place is empty then."""
        try:
            kept = Kept.of(self._place)
            with (self._place / BLOB).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != kept.digest:
                    raise ValueError("it was damaged")

                def read(shape: Shape) -> Form:
                    compiled = openvino_runner.Compiled.read(file, self._cores, shape.at_once, kept.weight_bytes)
                    return form_of(compiled, shape)

                form = read(Shape(kept.batch_size, kept.at_once))
                return form if kept.at_once == 1 else form.with_alone(read(Shape(1, 1)))
        except Exception:
            logger.warning("what was kept of a compiled model cannot be read: it is made again", exc_info=True)
            shutil.rmtree(self._place, ignore_errors=True)
            return None

    def _make_room(self) -> None:
        kept = 0
        for place in sorted(self._root.iterdir(), key=lambda place: place.stat().st_mtime, reverse=True):
            kept += sum(file.stat().st_size for file in place.iterdir())
            if kept > MOST_BYTES and place != self._place:
                shutil.rmtree(place, ignore_errors=True)


def _content(folder: Path, *options: str) -> str:
    seen = hashlib.sha256(json.dumps([*options, *(version(maker) for maker in _MAKERS)]).encode())
    for file in sorted((folder / "config.json", *folder.glob("*.safetensors*"))):
        seen.update(file.name.encode())
        with file.open("rb") as stream:
            seen.update(hashlib.file_digest(stream, "sha256").digest())
    return seen.hexdigest()[:32]
