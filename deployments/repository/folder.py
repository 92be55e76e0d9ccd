"""What a model's folder may hold. Reads names, JSON and weight headers, each within a limit; runs nothing."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from deployments.contract.generation import FolderDefaults, folder_defaults
from deployments.repository.diagnosis import adapted
from deployments.repository.manifest import MANIFEST_BYTES, Manifest, Unservable, parse_manifest
from deployments.repository.proportions import Extent, check_proportions
from deployments.repository.safetensors import check_safetensors
from deployments.repository.weights import INDEX_BYTES, MODULES, loaded_weights

MANIFEST = "model.yaml"
ADAPTER = "adapter_config.json"
GENERATION = "generation_config.json"
CONFIG_BYTES = 16 * 2**20
TOKENIZER_BYTES = 64 * 2**20
MAX_FILES = 4096
MAX_DEPTH = 4
POINTER_BYTES = 1024
_PLAIN = re.compile(r"\w*")
_POINTER = b"version https://git-lfs.github.com/spec/"
# Tables of tokens, whose keys are words and no settings.
_VOCABULARIES = frozenset({"tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json"})


def files_of(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every file with its path below the folder, except in hidden folders and in those that are models themselves.
    Those below a modules.json are parts of one.

    Raises Unservable where there are too many.
    """
    count = 0
    pending = [("", folder, 0)]
    whole = (folder / MODULES).is_file()
    while pending:
        prefix, here, depth = pending.pop()
        with os.scandir(here) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        if prefix and not whole and any(entry.name == "config.json" for entry in listed):
            continue
        for entry in listed:
            if entry.is_dir(follow_symlinks=False):
                if depth < MAX_DEPTH and not entry.name.startswith("."):
                    pending.append((f"{prefix}{entry.name}/", Path(entry.path), depth + 1))
                continue
            count += 1
            if count > MAX_FILES:
                raise Unservable(f"holds more than {MAX_FILES} files")
            yield f"{prefix}{entry.name}", entry


def digest_of(folder: Path) -> str:
    """Changes when any file of the folder does. Raises OSError where a file is removed meanwhile."""
    digest = hashlib.sha256()
    try:
        for name, entry in files_of(folder):
            facts = entry.stat(follow_symlinks=False)
            if entry.is_symlink() and (real := Path(entry.path)).exists():
                facts = real.stat()
            # The change time too: a copy may keep size and modification time.
            digest.update(f"{name}\0{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}\n".encode(errors="replace"))
    except Unservable:
        digest.update(b"too many files")
    return digest.hexdigest()[:16]


def check_names(folder: Path, *roots: Path) -> None:
    """Raises Unservable where the folder holds links out of all `roots` (resolved paths), anything but files, or a file
    that was not downloaded. Code may lie there: nothing runs it."""
    for name, entry in files_of(folder):
        shown = name[-64:]
        if entry.is_symlink() and not _lies_in(Path(entry.path), roots):
            raise Unservable(f"a symbolic link leaves the repository ({shown}), and link_targets does not allow it")
        if not stat.S_ISREG(entry.stat().st_mode):
            raise Unservable(f"holds something that is not a file ({shown})")
        if entry.stat().st_size <= POINTER_BYTES and _is_pointer(Path(entry.path)):
            raise Unservable(f"{shown} is a Git LFS pointer, not the file: run `git lfs pull` in the folder")
    if not _lies_in(folder, roots):
        raise Unservable("a symbolic link leaves the repository, and link_targets does not allow it")


def _lies_in(place: Path, roots: tuple[Path, ...]) -> bool:
    try:
        real = place.resolve()
    except (OSError, RuntimeError):  # RuntimeError where links lead in a circle.
        return False
    return any(real.is_relative_to(root) for root in roots)


def read_manifest(folder: Path) -> Manifest:
    """Raises Unservable."""
    try:
        with (folder / MANIFEST).open("rb") as stream:
            return parse_manifest(stream.read(MANIFEST_BYTES + 1))
    except FileNotFoundError:
        return Manifest()
    except OSError:
        raise Unservable("model.yaml cannot be read") from None


def read_config(folder: Path) -> dict[str, object]:
    """The model's config.json. Raises Unservable, and OSError where it cannot be read."""
    try:
        with (folder / "config.json").open("rb") as stream:
            return parse_config(stream.read(CONFIG_BYTES + 1))
    except FileNotFoundError:
        raise Unservable("there is no config.json") from None


def read_generation(folder: Path) -> FolderDefaults:
    """The defaults of requests in generation_config.json. Raises Unservable, OSError."""
    try:
        with (folder / GENERATION).open("rb") as stream:
            return parse_generation(stream.read(CONFIG_BYTES + 1))
    except FileNotFoundError:
        return FolderDefaults()


def parse_generation(text: bytes) -> FolderDefaults:
    """Raises Unservable."""
    return folder_defaults(_parsed(text, GENERATION))


def read_adapter(folder: Path) -> dict[str, object]:
    """Its adapter_config.json. Raises Unservable, OSError."""
    with (folder / ADAPTER).open("rb") as stream:
        return parse_adapter(stream.read(CONFIG_BYTES + 1))


def parse_adapter(text: bytes) -> dict[str, object]:
    """Raises Unservable."""
    adapter = _parsed(text, ADAPTER)
    return adapter if isinstance(adapter, dict) else {}


def parse_config(text: bytes) -> dict[str, object]:
    """Raises Unservable."""
    config = _parsed(text, "config.json")
    if not isinstance(config, dict):
        raise Unservable("config.json is not an object")
    refuse_code(config, "config.json")
    return config


def names_of(folder: Path) -> frozenset[str]:
    """Of its files. Raises Unservable, OSError."""
    return frozenset(name for name, _ in files_of(folder))


def weight_files(folder: Path, config: Mapping[str, object]) -> list[Path]:
    """The weights of the folder that are loaded. Raises Unservable where there are none, OSError."""

    def read(name: str) -> bytes:
        with (folder / name).open("rb") as stream:
            return stream.read(INDEX_BYTES + 1)

    return [folder / name for name in loaded_weights(names_of(folder), config, read)]


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(_POINTER)) == _POINTER


def check_files(folder: Path, *roots: Path, adapter_weights: str | None = None) -> None:
    """The checks that need no library. Raises Unservable with the first fault, OSError where a file cannot be read.
    `adapter_weights`: of a folder that holds an adapter."""
    check_names(folder, *roots)
    for name, entry in files_of(folder):
        if name == ADAPTER and adapter_weights is None:  # The library would load the model that it adapts.
            raise Unservable(adapted(read_adapter(folder)))
        if name.endswith(".json"):
            _check_json(Path(entry.path), name)
    if adapter_weights:
        check_safetensors(folder / adapter_weights)
        return
    config, extent = read_config(folder), Extent(0, 0)
    for file in weight_files(folder, config):
        extent = extent.joined(check_safetensors(file))
    check_proportions(config, extent)


def refuse_code(value: object, where: str) -> None:
    """Raises Unservable where a key, at any depth, makes the library run or fetch code.

    `auto_map` does not: code of a folder is run only where the caller trusts it, and no caller of ours does.
    """
    pending = [value]
    while pending:
        here = pending.pop()
        if isinstance(here, list):
            pending.extend(here)
        elif isinstance(here, dict):
            for key, inner in here.items():
                if key == "trust_remote_code":
                    raise Unservable(f"{where} names code of its own ({key})")
                if "_implementation" in key and not _is_plain(inner):  # `org/name` is a kernel of the Hub.
                    raise Unservable(f"{where} chooses an implementation, which may be code of its own ({key[:64]})")
                if key == "transformers_weights" and not str(inner).endswith(".safetensors"):
                    raise Unservable(f"{where} names weights that are not safetensors")
                if key != "label2id":  # Its keys are the model's labels.
                    pending.append(inner)


def _is_plain(value: object) -> bool:
    """Whether it names nothing outside the library, such as "eager"; or a part of the model has each such a name."""
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, bool) or (isinstance(value, str) and bool(_PLAIN.fullmatch(value)))


def _check_json(file: Path, name: str) -> None:
    shown = name[-64:]
    if file.name in _VOCABULARIES:
        if file.stat().st_size > TOKENIZER_BYTES:
            raise Unservable(f"{shown} is larger than {TOKENIZER_BYTES // 2**20} MiB")
        return
    with file.open("rb") as stream:
        value = _parsed(stream.read(CONFIG_BYTES + 1), shown)
    refuse_code(value, shown)


def _parsed(text: bytes, shown: str) -> object:
    if len(text) > CONFIG_BYTES:
        raise Unservable(f"{shown} is larger than {CONFIG_BYTES // 2**20} MiB")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Unservable(f"{shown} is not JSON") from None
