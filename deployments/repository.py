"""Which models exist: Hugging Face folders under one root. Reads names and JSON, never weights; no torch, no Ray.

`<root>/<model_id>/config.json` is a model; `<root>/<model_id>/<integer>/config.json` are its versions. A folder with
nothing but a model.yaml that names a `source` is a model too. A model id may hold slashes. Ids are looked up in the
scanned table; no path is ever made out of a client's string.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from deployments.errors import ModelLoadFailed, ModelNotFound, WrongFamily, quoted
from deployments.model_folder import (
    CONFIG_BYTES,
    MANIFEST,
    check_names,
    digest_of,
    read_config,
    read_manifest,
    weight_files,
)
from deployments.model_manifest import Manifest, Unservable
from deployments.model_sources import allowed
from deployments.settings import nearest
from deployments.source_watch import SourceWatch

RESCAN_AFTER_S = 2.0
LEVELS = 3


@dataclass(frozen=True, slots=True)
class Model:
    """One version of one model as it lies on disk."""

    model_id: str
    version: int | None
    folder: Path
    digest: str
    """Changes when any file of the folder, or of the source that it names, does."""
    family: str | None = None
    manifest: Manifest = field(default_factory=Manifest)
    weight_bytes: int = 0
    problem: str | None = None
    """Why the model cannot be served, in one line, if so."""
    pinned: bool = False
    """Whether it stays in memory once it is there."""

    @property
    def name(self) -> str:
        return self.model_id if self.version is None else f"{self.model_id}@{self.version}"

    @property
    def declared_bytes(self) -> int:
        declared = self.manifest.memory_mb
        return self.weight_bytes if declared is None else int(declared * 2**20)


def find(models: Mapping[str, Model], model_id: str, family: str) -> Model:
    """The model of that name. Raises ModelNotFound, WrongFamily, or ModelLoadFailed where it cannot be served."""
    model = models.get(model_id)
    if model is None:
        raise ModelNotFound(f"no model {quoted(model_id)}{nearest(model_id[:256], models)}")
    if model.problem is not None:
        raise ModelLoadFailed(f"{model.name}: {model.problem}")
    if model.family != family:
        raise WrongFamily(f"{model.name} serves {model.family}, not {family}")
    return model


def by_name(versions: Iterable[Model]) -> dict[str, Model]:
    """Every model by the names it answers to: the highest version without a problem serves."""
    table: dict[str, Model] = {}
    for model in versions:
        table[model.name] = model
        serving = table.get(model.model_id)
        if serving is None or rank(model) >= rank(serving):
            table[model.model_id] = model
    return table


def rank(model: Model) -> tuple[bool, int]:
    return model.problem is None, model.version or 0


class Repository:
    """The folders under `root`, and the table made of them, scanned again when it is older than two seconds.

    `root` may be a URL. `architectures` gives each family the pattern of `architectures` entries in config.json that it
    serves. `sources` are the beginnings of URLs that a model.yaml may name.
    """

    def __init__(
        self,
        root: Path | str,
        architectures: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
        sources: Iterable[str] = (),
    ) -> None:
        self.root = root
        self.architectures = architectures
        self.sources = tuple(sources)
        self.clock = clock
        self._versions: tuple[Model, ...] = ()
        self._models: dict[str, Model] = {}
        self._watch = SourceWatch(clock)
        self._scanned_at = -float("inf")

    def find(self, model_id: str, family: str) -> Model:
        """Raises ModelNotFound, WrongFamily, or ModelLoadFailed where the folder itself is at fault."""
        return find(self.models(), model_id, family)

    def models(self) -> Mapping[str, Model]:
        """Every model by the names it answers to."""
        if self.clock() - self._scanned_at >= RESCAN_AFTER_S:
            self._models = by_name(self.scan())
            self._scanned_at = self.clock()
        return self._models

    def scan(self) -> tuple[Model, ...]:
        """Every version there is now. Folders whose files have not changed are not read again.

        Raises OSError where the root cannot be read.
        """
        if isinstance(self.root, Path):
            self._versions = tuple(map(self._with_source, self._scan(self.root)))
            self._watch.forget_beyond({model.manifest.source for model in self._versions if model.manifest.source})
        else:
            # Imported here: it builds on this module.
            from deployments.remote_repository import scan_remote

            known = {model.name: model for model in self._versions}
            self._versions = tuple(scan_remote(self.root, known, self._family_of))
        return self._versions

    def _scan(self, root: Path) -> Iterator[Model]:
        known = {model.folder: model for model in self._versions}
        for model_id, version, folder in _model_folders(root):
            try:
                digest = digest_of(folder)
                before = known.get(folder)
                unchanged = before is not None and before.digest.partition("-")[0] == digest
                yield before if before and unchanged else self._read(root, model_id, version, folder, digest)
            except OSError:  # taken away while we looked
                continue

    def _read(self, root: Path, model_id: str, version: int | None, folder: Path, digest: str) -> Model:
        family = None
        manifest = Manifest()
        problem = None
        weight_bytes = 0
        try:
            check_names(folder, root.resolve())
            manifest = read_manifest(folder)
            if manifest.source is not None:
                if not allowed(manifest.source, self.sources):
                    raise Unservable("model.yaml: its source is none that the configuration allows")
                family = self._known(manifest.family)
            else:
                family = self._family_of(manifest, read_config(_beginning(folder / "config.json")))
                weight_bytes = sum(file.stat().st_size for file in weight_files(folder))
        except Unservable as unservable:
            problem = str(unservable)
        return Model(model_id, version, folder, digest, family, manifest, weight_bytes, problem, manifest.pinned)

    def _with_source(self, model: Model) -> Model:
        """As it is elsewhere now, where that is where it lies."""
        if model.manifest.source is None or model.problem is not None:
            return model
        sight = self._watch.see(model.manifest.source)
        digest = f"{model.digest.partition('-')[0]}-{sight.mark}"
        said = sum(file.bytes or 0 for name, file in model.manifest.files.items() if name.endswith(".safetensors"))
        return replace(model, digest=digest, weight_bytes=said or sight.weight_bytes)

    def _known(self, family: str | None) -> str:
        if family is None or family not in self.architectures:
            raise Unservable(f"model.yaml: no family {quoted(family or '')}{nearest(family or '', self.architectures)}")
        return family

    def _family_of(self, manifest: Manifest, config: dict[str, object]) -> str:
        if manifest.family:
            return self._known(manifest.family)
        named = config.get("architectures")
        architectures = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
        for family, pattern in self.architectures.items():
            if any(re.search(pattern, name) for name in architectures):
                return family
        raise Unservable(f"no family serves architecture {quoted(', '.join(architectures) or 'none')}")


def _model_folders(root: Path) -> Iterator[tuple[str, int | None, Path]]:
    """(model id, version, folder) for every folder that is a model, at most three levels down.

    Raises OSError where the root itself cannot be read.
    """
    rest: list[tuple[str, ...]] = [(name,) for name in _folders(root)]
    while rest:
        parts = rest.pop()
        folder = root.joinpath(*parts)
        try:
            inner = _folders(folder) if len(parts) < LEVELS else []
        except OSError:
            continue
        rest.extend((*parts, name) for name in inner)
        if (folder / "config.json").is_file() or (not inner and (folder / MANIFEST).is_file()):
            yield *place_of(parts), folder


def place_of(parts: tuple[str, ...]) -> tuple[str, int | None]:
    """(model id, version) of a folder by the names that lead to it."""
    *parents, last = parts
    if parents and last.isascii() and last.isdigit() and len(last) < 10:
        return "/".join(parents), int(last)
    return "/".join(parts), None


def is_name(part: str) -> bool:
    """Whether a folder of that name may lead to a model: hidden ones do not, and what follows an @ is a version."""
    return not part.startswith(".") and "@" not in part


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted((entry.name for entry in entries if is_name(entry.name) and entry.is_dir()), reverse=True)


def _beginning(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(CONFIG_BYTES + 1)
    except FileNotFoundError:
        raise Unservable("there is no config.json") from None
