"""Image classifiers compiled for OpenVINO, in a cache on disk by the folder's content and the versions of libraries."""

import json
import logging
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch

from deployments.engines.vision import openvino_runner
from deployments.engines.vision.compilation import Compiler
from deployments.engines.vision.forward import Form, Forward
from deployments.engines.vision.openvino_compile import ABOUT, BLOB, form_of, make_in_child
from deployments.engines.vision.openvino_runner import Shape
from deployments.system.artifact_cache import ArtifactCache, digest_key, sha256_by_name

logger = logging.getLogger(__name__)

_MAKERS = ("openvino", "torch", "transformers", "model-runtime")


class OpenVinoCompiler(Compiler):
    """One model's entries in the cache: its compiled form, and the verdict on it."""

    tunes = True

    def __init__(self, cache: ArtifactCache, folder: Path, shape: torch.Size, dtype: str | None, cores: int) -> None:
        """`folder`: the model's. `shape`: of an image, [channels, height, width]."""
        self._cache = cache
        self._folder = folder
        self._cores = cores
        files = sha256_by_name([folder / "config.json", *folder.glob("*.safetensors*")])  # they decide what is compiled
        versions = [version(maker) for maker in _MAKERS]
        self._key = digest_key(files, shape, dtype, cores, openvino_runner.machine(), versions, Shape._fields)
        self._verdict_key = f"{self._key}.json"
        self._approved = False
        with suppress(ValueError, TypeError, KeyError):
            self.rejected = json.loads(cache.read(self._verdict_key) or b"")["rejected"]
            self._approved = self.rejected is None

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
        rejected = None if isinstance(form.logits, openvino_runner.Compiled) else form.note
        with suppress(OSError):  # where it cannot be kept the next load finds it again
            self._cache.write(self._verdict_key, json.dumps({"rejected": rejected}).encode())
            if rejected is not None:
                self._cache.remove(self._key)

    def _read(self) -> Form | None:
        """None where there is no entry, or a damaged one, which is removed."""
        place = self._cache.find(self._key)
        if place is None:
            return None
        try:
            *of_shape, weight_bytes = json.loads((place / ABOUT).read_bytes())
            kept = Shape(*of_shape)
            with (place / BLOB).open("rb") as file:

                def read(shape: Shape) -> Form:
                    return form_of(openvino_runner.Compiled.read(file, shape, weight_bytes))

                form = read(kept)
                return form if kept.at_once == 1 else form.with_exclusive(read(Shape(1, 1, self._cores)))
        except Exception:
            logger.warning("a compiled model cannot be read: it is compiled again", exc_info=True)
            self._cache.remove(self._key)
            return None
