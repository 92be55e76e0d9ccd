"""The models below a URL: lists names and sizes, and reads two small files of each. Fetches no weights."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from deployments.repository.families import ModelFormat, context_of, family_of
from deployments.repository.folder import CONFIG_BYTES, MANIFEST, PICKLES, parse_config
from deployments.repository.manifest import MANIFEST_BYTES, Manifest, Unservable, parse_manifest
from deployments.repository.model import LEVELS, Model, id_and_version, may_name_a_model, versioned
from deployments.repository.staging import RemoteFile, content_digest, listing, read_remote, weights_of

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
        if before is not None and before.digest == digest:
            found.append(before)
        else:
            found.append(_read(Model(model_id, version, Path(), digest), f"{url.rstrip('/')}/{path}", inside, formats))
    return found


def _model_folders(files: RemoteFiles) -> Mapping[str, RemoteFiles]:
    """By the path of each folder with a config.json: its files, each in the nearest such folder above it."""
    models = {path.removesuffix("/config.json") for path in files if path.endswith("/config.json")}
    folders: dict[str, dict[str, RemoteFile]] = defaultdict(dict)
    for path, file in files.items():
        folder = next((parent for parent in map(str, PurePosixPath(path).parents) if parent in models), None)
        if folder is not None:
            folders[folder][path.removeprefix(f"{folder}/")] = file
    return folders


def _read(model: Model, source: str, files: RemoteFiles, formats: Mapping[str, ModelFormat]) -> Model:
    """The model with what its manifest and its config.json contain. Raises OSError where they cannot be read."""
    manifest = Manifest()
    try:
        if MANIFEST in files:
            manifest = parse_manifest(read_remote(source, MANIFEST, MANIFEST_BYTES + 1))
        if manifest.source is not None:
            raise Unservable("model.yaml: a model of a remote repository has no other source")
        if code := [name for name in files if name.endswith(".py")]:
            raise Unservable(f"holds code ({code[0][-64:]})")
        config = parse_config(read_remote(source, "config.json", CONFIG_BYTES + 1))
        family = family_of(manifest, config, formats)
        model = replace(model, family=family, context=context_of(family, config, formats))
        if not weights_of(files):
            pickles = any(Path(name).suffix in PICKLES for name in files)
            raise Unservable("its weights are pickles, which may run code" if pickles else "no *.safetensors weights")
    except Unservable as unservable:
        model = replace(model, problem=str(unservable))
    except Exception as failure:
        raise OSError(str(failure)) from None
    manifest, weight_bytes = manifest.model_copy(update={"source": source}), sum(weights_of(files))
    return replace(model, manifest=manifest, weight_bytes=weight_bytes, pinned=manifest.pinned)
