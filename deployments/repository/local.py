"""Which models exist: Hugging Face folders under one root. Reads names and JSON, never weights; no torch, no Ray.

`<root>/<model_id>/config.json` is a model; `<root>/<model_id>/<integer>/config.json` are its versions. A folder with
nothing but a model.yaml that names a `source` is a model too, and one that leads to no model is listed with the reason.
In a cache of the Hugging Face Hub, `models--<org>--<name>` is the model `<org>/<name>`, as its main branch was fetched.
A model id may hold slashes. Ids are looked up in the scanned table; no path is ever made out of a client's string.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from deployments.repository.adapters import WEIGHTS, base_of, with_base
from deployments.repository.diagnosis import PIPELINE, kind_without_config, looks_like_a_model
from deployments.repository.drafts import with_draft
from deployments.repository.families import ModelFormat, check_content, context_of, family_of
from deployments.repository.folder import (
    ADAPTER,
    check_names,
    digest_of,
    names_of,
    read_adapter,
    read_config,
    read_generation,
    read_manifest,
    weight_files,
)
from deployments.repository.hub_cache import hub_repository
from deployments.repository.manifest import Unservable
from deployments.repository.model import LEVELS, Model, by_name, id_and_version, may_name_a_model
from deployments.repository.remote import scan_remote
from deployments.repository.source_poller import SourcePoller
from deployments.repository.staging import allowed
from deployments.repository.weights import MODULES


class Repository:
    """The models below `root`.

    `root` may be a URL. `formats` are the formats of all families. `sources` are the beginnings of URLs that a
    model.yaml may name, `link_targets` the folders beside the root that links may lead to.
    """

    def __init__(
        self,
        root: Path | str,
        formats: Mapping[str, ModelFormat],
        sources: Iterable[str] = (),
        link_targets: Iterable[Path] = (),
    ) -> None:
        self.root = root
        self.formats = formats
        self.sources = tuple(sources)
        self.link_targets = tuple(target.resolve() for target in link_targets)
        self._read_before: tuple[Model, ...] = ()
        self._poller = SourcePoller()

    def models(self) -> Mapping[str, Model]:
        """Every model by the names it answers to, as `scan` finds it."""
        return by_name(self.scan())

    def scan(self) -> tuple[Model, ...]:
        """Every version there is now. Folders whose files have not changed are not read again.

        Raises OSError where the root cannot be read.
        """
        if isinstance(self.root, Path):
            found = tuple(map(self._with_source, self._scan(self.root)))
            self._poller.forget_others({model.manifest.source for model in found if model.manifest.source})
        else:
            known = {model.name: model for model in self._read_before}
            found = tuple(scan_remote(self.root, known, self.formats))
        self._read_before = found
        others = by_name(model for model in found if model.adapter_of is None)
        whole = (self._with_base(model, others) if model.adapter_of else model for model in found)
        return tuple(with_draft(model, others) if model.manifest.draft else model for model in whole)

    def _scan(self, root: Path) -> Iterator[Model]:
        known = {model.folder: model for model in self._read_before}
        for model_id, version, folder in _model_folders(root):
            try:
                digest = digest_of(folder)
                before = known.get(folder)
                if before is not None and before.own_digest == digest:
                    yield before
                else:
                    yield self._read(Model(model_id, version, folder, digest, root=root), root)
            except PermissionError:
                yield Model(model_id, version, folder, "", problem="its folder may not be read by the runtime's user")
            except OSError:  # Removed during the scan.
                continue

    def _read(self, model: Model, root: Path) -> Model:
        """The model with what its manifest and its config.json contain."""
        try:
            check_names(model.folder, root.resolve(), *self.link_targets)
            manifest = read_manifest(model.folder)
            model = replace(model, manifest=manifest, pinned=manifest.pinned)
            if manifest.source is not None:
                if not allowed(manifest.source, self.sources):
                    raise Unservable("model.yaml: its source is none that the configuration allows")
                return replace(model, family=family_of(manifest, {}, self.formats))
            names = names_of(model.folder)
            if ADAPTER in names:
                base = base_of(read_adapter(model.folder), names)
                return replace(model, adapter_of=base, weight_bytes=(model.folder / WEIGHTS).stat().st_size)
            if "config.json" not in names:
                raise Unservable(kind_without_config(names))
            config = read_config(model.folder)
            family = family_of(manifest, config, self.formats, names)
            model = replace(model, family=family, context=context_of(family, config, self.formats))
            weights = sum(file.stat().st_size for file in weight_files(model.folder, config))
            model = replace(model, weight_bytes=weights, generation=read_generation(model.folder))
            check_content(family, config, self.formats, names)
            return model
        except Unservable as unservable:
            return replace(model, problem=str(unservable))

    def _with_base(self, model: Model, bases: Mapping[str, Model]) -> Model:
        """An adapter with its base, as that is now."""
        model = with_base(model, bases)
        try:
            if model.family is not None:
                family_of(model.manifest.model_copy(update={"family": model.family}), {}, self.formats)
            return model
        except Unservable as unservable:
            return replace(model, problem=str(unservable))

    def _with_source(self, model: Model) -> Model:
        """A model that names a source, with the content that the source has now."""
        manifest = model.manifest
        if manifest.source is None or model.problem is not None:
            return model
        content = self._poller.content(manifest.source)
        declared = sum(file.bytes or 0 for name, file in manifest.files.items() if name.endswith(".safetensors"))
        digest = f"{model.own_digest}-{content.digest}"
        size = declared or content.weight_bytes
        return replace(model, digest=digest, weight_bytes=size, generation=content.generation)


def _model_folders(root: Path) -> Iterator[tuple[str, int | None, Path]]:
    """(model id, version, folder) for every folder that is or should be a model, at most three levels down.

    Raises OSError where the root itself cannot be read.
    """
    for name in _folders(root):
        yield from _models_in(root, (name,))


def _models_in(root: Path, parts: tuple[str, ...]) -> list[tuple[str, int | None, Path]]:
    folder = root.joinpath(*parts)
    if (repo := hub_repository(folder)) is not None:
        return [(repo.model_id, None, repo.snapshot)] if repo.model_id else []
    here = [(*id_and_version(parts), folder)]
    try:
        names, inner = _files_and_folders(folder)
        inner = inner if len(parts) < LEVELS else []
    except OSError:
        return here
    if PIPELINE in names or MODULES in names:  # Each of its parts has a config.json.
        return here
    below = [model for name in inner for model in _models_in(root, (*parts, name))]
    if looks_like_a_model(names):
        return here + [model for model in below if (model[2] / "config.json").is_file()]
    return below or here


def _folders(folder: Path) -> list[str]:
    return _files_and_folders(folder)[1]


def _files_and_folders(folder: Path) -> tuple[list[str], list[str]]:
    """The names of its files, and of the folders that may lead to a model."""
    with os.scandir(folder) as entries:
        listed = sorted((entry.name, entry.is_dir()) for entry in entries)
    files = [name for name, is_folder in listed if not is_folder]
    return files, [name for name, is_folder in listed if is_folder and may_name_a_model(name)]
