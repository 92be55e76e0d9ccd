"""The models below a URL, as `repository` finds them on disk: names, sizes, and two small files of each are read."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from deployments.repository.families import ModelFormats
from deployments.repository.folder import CONFIG_BYTES, MANIFEST, PICKLES, read_config
from deployments.repository.manifest import MANIFEST_BYTES, Manifest, Unservable, parse_manifest
from deployments.repository.model import LEVELS, Model, is_name, place_of
from deployments.repository.staging import RemoteFile, listing, read_remote


def scan_remote(url: str, known: Mapping[str, Model], formats: ModelFormats) -> list[Model]:
    """Every version below `url`; what has not changed since `known` (by name) is not read again. Raises OSError."""
    try:
        files = listing(url, LEVELS + 2)
    except Exception as failure:
        raise OSError(str(failure)) from None
    folders: dict[str, dict[str, RemoteFile]] = defaultdict(dict)
    models = {path.removesuffix("/config.json") for path in files if path.endswith("/config.json")}
    for path, file in files.items():
        home = next((parent for parent in _parents(path) if parent in models), None)
        if home is not None:
            folders[home][path.removeprefix(f"{home}/")] = file
    found = []
    for home, inside in folders.items():
        parts = tuple(home.split("/"))
        if len(parts) > LEVELS or not all(map(is_name, parts)):
            continue
        model_id, version = place_of(parts)
        digest = hashlib.sha256(repr(sorted(inside.items())).encode()).hexdigest()[:16]
        name = model_id if version is None else f"{model_id}@{version}"
        before = known.get(name)
        unchanged = before is not None and before.digest == digest
        found.append(before if before and unchanged else _read(url, home, model_id, version, digest, inside, formats))
    return found


def _parents(path: str) -> list[str]:
    """`a/b` and `a` of `a/b/c`: the nearest first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:depth]) for depth in range(len(parts), 0, -1)]


def _read(
    url: str,
    home: str,
    model_id: str,
    version: int | None,
    digest: str,
    inside: Mapping[str, RemoteFile],
    formats: ModelFormats,
) -> Model:
    source = f"{url.rstrip('/')}/{home}"
    family, problem, manifest = None, None, Manifest()
    weights = {name: file.size for name, file in inside.items() if name.endswith(".safetensors") and "/" not in name}
    try:
        if MANIFEST in inside:
            manifest = parse_manifest(read_remote(source, MANIFEST, MANIFEST_BYTES + 1))
        if manifest.source is not None:
            raise Unservable("model.yaml: a model of a remote repository has no other source")
        if code := [name for name in inside if name.endswith(".py")]:
            raise Unservable(f"holds code ({code[0][-64:]})")
        family = formats.family_of(manifest, read_config(read_remote(source, "config.json", CONFIG_BYTES + 1)))
        if not weights:
            pickles = any(Path(name).suffix in PICKLES for name in inside)
            raise Unservable("its weights are pickles, which may run code" if pickles else "no *.safetensors weights")
    except Unservable as unservable:
        problem = str(unservable)
    except Exception as failure:
        raise OSError(str(failure)) from None
    manifest = manifest.model_copy(update={"source": source})
    return Model(model_id, version, Path(), digest, family, manifest, sum(weights.values()), problem, manifest.pinned)
