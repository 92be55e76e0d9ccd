"""Image classifiers compiled for OpenVINO, in a cache on disk by the folder's content and the versions of libraries."""

import hashlib
import json
import logging
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch

from deployments.engines.vision import openvino_runner
from deployments.engines.vision.compilation import Compiler
from deployments.engines.vision.forward import Form, Forward
from deployments.engines.vision.openvino_compile import BLOB, About, Shape, form_of, make_in_child
from deployments.system.artifact_cache import ArtifactCache, digest_key

logger = logging.getLogger(__name__)

_MAKERS = ("openvino", "torch", "transformers", "model-runtime")


class OpenVinoCompiler(Compiler):
    """One model's entries in the cache: its compiled form, and the verdict on it."""

    tunes = True

    def __init__(self, cache: ArtifactCache, folder: Path, shape: torch.Size, dtype: str | None, cores: int) -> None:
        """`folder`: the model's. `shape`: of a picture, [channels, height, width]."""
        self._cache = cache
        self._folder = folder
        self._cores = cores
        self._key = digest_key(
            _digest(folder), shape, dtype, cores, openvino_runner.machine(), [version(maker) for maker in _MAKERS]
        )
        self._verdict_key = f"{self._key}.json"
        self.rejected: str | None = None
        self._approved = False
        with suppress(ValueError, TypeError, KeyError):
            verdict = json.loads(cache.read(self._verdict_key) or b"")
            self.rejected = None if verdict["approved"] else str(verdict["note"])
            self._approved = bool(verdict["approved"])

    def found(self) -> Form | None:
        return self._read() if self._approved else None

    def prepare(self, example: torch.Tensor) -> None:
        if self._key not in self._cache:
            with self._cache.draft(self._key) as draft:
                make_in_child(self._folder, tuple(example.shape), self._cores, draft)

    def compile(self, forward: Forward, example: torch.Tensor) -> Form:
        form = self._read()
        if form is None:
            raise OSError("the compiled model cannot be read")
        return form

    def settle(self, form: Form) -> None:
        approved = isinstance(form.logits, openvino_runner.Compiled)
        with suppress(OSError):  # where it cannot be kept the next load finds it again
            self._cache.write(self._verdict_key, json.dumps({"note": form.note, "approved": approved}).encode())
            if not approved:
                self._cache.remove(self._key)

    def _read(self) -> Form | None:
        """None where there is no entry, or a damaged one, which is removed."""
        place = self._cache.find(self._key)
        if place is None:
            return None
        try:
            about = About.of(place)
            with (place / BLOB).open("rb") as file:

                def read(shape: Shape) -> Form:
                    compiled = openvino_runner.Compiled.read(file, self._cores, shape.at_once, about.weight_bytes)
                    return form_of(compiled, shape)

                form = read(Shape(about.batch_size, about.at_once))
                return form if about.at_once == 1 else form.with_exclusive(read(Shape(1, 1)))
        except Exception:
            logger.warning("a compiled model cannot be read: it is compiled again", exc_info=True)
            self._cache.remove(self._key)
            return None


def _digest(folder: Path) -> str:
    """Of the files that decide what is compiled."""
    seen = hashlib.sha256()
    for file in sorted((folder / "config.json", *folder.glob("*.safetensors*"))):
        seen.update(file.name.encode())
        with file.open("rb") as stream:
            seen.update(hashlib.file_digest(stream, "sha256").digest())
    return seen.hexdigest()
