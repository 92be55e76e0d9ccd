"""Which models exist: Hugging Face folders under one root. Reads names and JSON, never weights; no torch, no Ray.

`<root>/<model_id>/config.json` is a model; `<root>/<model_id>/<integer>/config.json` are its versions. A model id may
hold slashes. Ids are looked up in the scanned table; no path is ever made out of a client's string.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from deployments.errors import ModelLoadFailed, ModelNotFound, WrongFamily, quoted
from deployments.settings import Strict, mistakes, nearest

RESCAN_AFTER_S = 2.0


class Manifest(Strict):
    """`model.yaml`, optional beside config.json."""

    family: str | None = None
    memory_mb: Annotated[float, Field(gt=0)] | None = None
    """What the model is said to need; its weight files' size by default."""
    dtype: str | None = None
    pinned: bool = False
    draft_decoding: bool = True
    """Whether large JPEGs may be decoded small before they are resized."""


@dataclass(frozen=True, slots=True)
class Model:
    """One version of one model as it lies on disk."""

    model_id: str
    version: int | None
    folder: Path
    digest: str
    """Changes when any file of the folder does."""
    family: str | None = None
    manifest: Manifest = field(default_factory=Manifest)
    weight_bytes: int = 0
    problem: str | None = None
    """Why the model cannot be served, in one line, if so."""

    @property
    def name(self) -> str:
        return self.model_id if self.version is None else f"{self.model_id}@{self.version}"

    @property
    def declared_bytes(self) -> int:
        declared = self.manifest.memory_mb
        return self.weight_bytes if declared is None else int(declared * 2**20)


class Repository:
    """A table of models, scanned again when it is older than two seconds.

    `architectures` gives each family the pattern of `architectures` entries in config.json that it serves.
    """

    def __init__(
        self, root: Path, architectures: Mapping[str, str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.root = root
        self.architectures = architectures
        self.clock = clock
        self._models: dict[str, Model] = {}  # by name: `id` for the version that serves, `id@version` for each
        self._scanned_at = -float("inf")

    def find(self, model_id: str, family: str) -> Model:
        """Raises ModelNotFound, WrongFamily, or ModelLoadFailed where the folder itself is at fault."""
        model = self.models().get(model_id)
        if model is None:
            raise ModelNotFound(f"no model {quoted(model_id)}{nearest(model_id[:256], self._models)}")
        if model.problem is not None:
            raise ModelLoadFailed(f"{model.name}: {model.problem}")
        if model.family != family:
            raise WrongFamily(f"{model.name} serves {model.family}, not {family}")
        return model

    def models(self) -> Mapping[str, Model]:
        """Every model by the names it answers to."""
        if self.clock() - self._scanned_at >= RESCAN_AFTER_S:
            self._models = self._scan()
            self._scanned_at = self.clock()
        return self._models

    def _scan(self) -> dict[str, Model]:
        known = {model.folder: model for model in self._models.values()}
        table: dict[str, Model] = {}
        for model_id, version, folder in _model_folders(self.root):
            try:
                digest = _digest(folder)
            except OSError:  # taken away while we looked
                continue
            before = known.get(folder)
            unchanged = before is not None and before.digest == digest
            model = before if before and unchanged else self._read(model_id, version, folder, digest)
            table[model.name] = model
            serving = table.get(model_id)
            # The highest version without a problem serves.
            if serving is None or (model.problem is None, model.version or 0) >= (
                serving.problem is None,
                serving.version or 0,
            ):
                table[model_id] = model
        return table

    def _read(self, model_id: str, version: int | None, folder: Path, digest: str) -> Model:
        family = None
        manifest = Manifest()
        weights = [file for file in folder.glob("*.safetensors") if file.is_file()]
        problem = None
        try:
            _refuse_code(folder, self.root)
            manifest = _manifest(folder)
            family = manifest.family or self._family(_config(folder))
            if not weights:
                raise _Unservable("no *.safetensors weights")
        except _Unservable as unservable:
            problem = str(unservable)
        weight_bytes = sum(file.stat().st_size for file in weights)
        return Model(model_id, version, folder, digest, family, manifest, weight_bytes, problem)

    def _family(self, config: dict[str, object]) -> str:
        named = config.get("architectures")
        architectures = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
        for family, pattern in self.architectures.items():
            if any(re.search(pattern, name) for name in architectures):
                return family
        raise _Unservable(f"no family serves architecture {quoted(', '.join(architectures) or 'none')}")


class _Unservable(Exception):
    """A folder that cannot be served, and why, in one line without paths."""


def _model_folders(root: Path) -> Iterator[tuple[str, int | None, Path]]:
    """(model id, version, folder) for every folder with a config.json, at most three levels down."""
    for depth in (1, 2, 3):
        for config in sorted(root.glob("*/" * depth + "config.json")):
            folder = config.parent
            *parents, last = folder.relative_to(root).parts
            if any(part.startswith(".") for part in (*parents, last)):
                continue
            if parents and last.isascii() and last.isdigit():
                yield "/".join(parents), int(last), folder
            else:
                yield "/".join((*parents, last)), None, folder


def _digest(folder: Path) -> str:
    files = sorted((file.name, (stat := file.lstat()).st_mtime_ns, stat.st_size) for file in folder.iterdir())
    return hashlib.sha256(repr(files).encode()).hexdigest()[:16]


def _config(folder: Path) -> dict[str, object]:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        raise _Unservable("config.json is not JSON") from None
    if not isinstance(config, dict):
        raise _Unservable("config.json is not an object")
    if "auto_map" in config:
        raise _Unservable("config.json names code of its own (auto_map)")
    return config


def _manifest(folder: Path) -> Manifest:
    file = folder / "model.yaml"
    if not file.exists():
        return Manifest()
    try:
        return Manifest.model_validate(yaml.safe_load(file.read_text("utf-8")) or {})
    except ValidationError as invalid:
        raise _Unservable(f"model.yaml: {mistakes(invalid)[0]}") from None
    except (OSError, ValueError, yaml.YAMLError):
        raise _Unservable("model.yaml is not YAML") from None


def _refuse_code(folder: Path, root: Path) -> None:
    inside = root.resolve()
    for file in folder.iterdir():
        if file.suffix == ".py":
            raise _Unservable(f"holds code ({file.name[:64]})")
        if not file.resolve().is_relative_to(inside):
            raise _Unservable(f"a symbolic link leaves the repository ({file.name[:64]})")
