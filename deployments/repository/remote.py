"""The models below a URL: lists names and sizes, and reads two small files of each. Fetches no weights."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from deployments.repository.adapters import WEIGHTS, base_of
from deployments.repository.diagnosis import kind_without_config, looks_like_a_model
from deployments.repository.families import ModelFormat, check_content, context_of, family_of
from deployments.repository.folder import (
    ADAPTER,
    CONFIG_BYTES,
    GENERATION,
    MANIFEST,
    parse_adapter,
    parse_config,
    parse_generation,
)
from deployments.repository.manifest import MANIFEST_BYTES, Manifest, Unservable, parse_manifest
from deployments.repository.model import LEVELS, Model, id_and_version, may_name_a_model, versioned
from deployments.repository.staging import RemoteFile, content_digest, listing, read_remote, weight_bytes
from deployments.repository.weights import MODULES

RemoteFiles = Mapping[str, RemoteFile]


def scan_remote(url: str, known: Mapping[str, Model], formats: Mapping[str, ModelFormat]) -> list[Model]:
    """Every version below `url`; what has not changed since `known` (by name) is not read again. Raises OSError."""
    try:
        files = listing(url, LEVELS + 2)
    except Exception as failure:
        raise OSError(str(failure)) from None
    found = []
    for path, inside in _model_folders(files).items():
        parts = tuple(path.split("/"))
        if len(parts) > LEVELS or not all(map(may_name_a_model, parts)):
            continue
        model_id, version = id_and_version(parts)
        digest = content_digest(inside)
        before = known.get(versioned(model_id, version))
        if before is not None and before.own_digest == digest:
            found.append(before)
        else:
            found.append(_read(Model(model_id, version, Path(), digest), f"{url.rstrip('/')}/{path}", inside, formats))
    return found


def _model_folders(files: RemoteFiles) -> Mapping[str, RemoteFiles]:
    """By the path of each folder with a config.json: its files, each in the nearest such folder above it; what lies
    below a modules.json is of that model. A folder that neither lies in such a one nor leads to one is its own, with
    what lies below it."""
    of_modules = {path.removesuffix(f"/{MODULES}") for path in files if path.endswith(f"/{MODULES}")}
    models = {path.removesuffix("/config.json") for path in files if path.endswith("/config.json")}
    models = {model for model in models if of_modules.isdisjoint(_parents(model))}
    lead_to_models = {parent for model in models for parent in _parents(model)}
    like_models = {_parents(path)[0] for path in files if "/" in path and looks_like_a_model([path])}
    folders: dict[str, dict[str, RemoteFile]] = defaultdict(dict)
    for path, file in files.items():
        parents = _parents(path)
        folder = next((parent for parent in parents if parent in models), None)
        if folder is None:
            free = [parent for parent in parents if parent not in lead_to_models]
            folder = next((parent for parent in reversed(free) if parent in like_models), next(iter(free), None))
        if folder is not None:
            folders[folder][path.removeprefix(f"{folder}/")] = file
    return folders


def _parents(path: str) -> list[str]:
    """The folders that a path lies in, the nearest first, without the root."""
    return [str(parent) for parent in PurePosixPath(path).parents][:-1]


def _read(model: Model, source: str, files: RemoteFiles, formats: Mapping[str, ModelFormat]) -> Model:
    """The model with what its manifest and its config.json contain. Raises OSError where they cannot be read."""
    manifest = Manifest()
    try:
        if MANIFEST in files:
            manifest = parse_manifest(read_remote(source, MANIFEST, MANIFEST_BYTES + 1))
        if manifest.source is not None:
            raise Unservable("model.yaml: a model of a remote repository has no other source")
        if ADAPTER in files:
            base = base_of(parse_adapter(read_remote(source, ADAPTER, CONFIG_BYTES + 1)), files.keys())
            model = replace(model, adapter_of=base, weight_bytes=files[WEIGHTS].size)
        elif "config.json" in files:
            config = parse_config(read_remote(source, "config.json", CONFIG_BYTES + 1))
            family = family_of(manifest, config, formats, files.keys())
            model = replace(model, family=family, context=context_of(family, config, formats))
            model = replace(model, weight_bytes=weight_bytes(source, files, config))
            if GENERATION in files:
                generation = parse_generation(read_remote(source, GENERATION, CONFIG_BYTES + 1))
                model = replace(model, generation=generation)
            check_content(family, config, formats, files.keys())
        else:
            raise Unservable(kind_without_config(files.keys()))
    except Unservable as unservable:
        model = replace(model, problem=str(unservable))
    except Exception as failure:
        raise OSError(str(failure)) from None
    return replace(model, manifest=manifest.model_copy(update={"source": source}), pinned=manifest.pinned)
