"""Models in remote stores: listed, and copied to this node's disk through fsspec, once, whole and verified."""

import errno
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fsspec

from deployments.contract.errors import ModelLoadFailed, Unavailable
from deployments.repository.manifest import SourceFile, Unservable
from deployments.repository.weights import INDEX_BYTES, loaded_weights

logger = logging.getLogger("model_runtime.sources")

STAGINGS_KEPT = 2
"""Of one source on disk: the content that serves, and the candidate beside it."""
CHUNK_BYTES = 4 * 2**20
"""Bounds the memory of a copy. Not measured."""
# What a library reads of a model's folder; no pickles, nothing with an odd name.
_STAGED = re.compile(
    r"(?s)(?!.*\.\.)\w[^/\\\x00]*(/\w[^/\\\x00]*)*\.(json|safetensors|txt|jinja|model|tiktoken|yaml|png|jpe?g|webp)"
)
# The keys under which stores describe a file's content, the most exact first.
_STAMPS = ("ETag", "etag", "md5Hash", "generation", "blob_id", "LastModified", "last_modified", "mtime", "created")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    size: int
    content: str
    """Changes when the content does, as far as the store knows."""


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. Raises Unservable, Unavailable."""
    scheme = url.partition("://")[0]
    if "::" in url:
        raise Unservable("a source is one URL, not a chain of them")
    try:
        store, path = fsspec.core.url_to_fs(url)
    except ImportError as missing:
        raise Unservable(f"{scheme}:// needs a driver that is not installed: {missing.msg[:128]}") from None
    except Exception as failure:
        raise Unavailable(f"the source cannot be reached ({type(failure).__name__})") from None
    return store, str(path)


def listing(url: str, depth: int | None = None) -> dict[str, RemoteFile]:
    """Every file below the URL, by its path from there. Raises Unservable, Unavailable."""
    store, root = file_system(url)
    try:
        store.invalidate_cache()
        details = store.find(root, maxdepth=depth, detail=True)
    except FileNotFoundError:
        return {}
    except Exception as failure:
        raise Unavailable(f"the source cannot be listed ({type(failure).__name__})") from None
    base = root.rstrip("/") + "/"
    files = {}
    for path, facts in details.items():
        if path.startswith(base):
            content = next((facts[key] for key in _STAMPS if facts.get(key)), "")
            files[path.removeprefix(base)] = RemoteFile(int(facts.get("size") or 0), str(content))
    return files


def content_digest(files: Mapping[str, RemoteFile]) -> str:
    """Changes when a file of the listing does."""
    described = [(name, file.size, file.content) for name, file in sorted(files.items())]
    return hashlib.sha256(repr(described).encode()).hexdigest()[:16]


def weight_bytes(url: str, files: Mapping[str, RemoteFile], config: Mapping[str, object]) -> int:
    """Of the weight files below the URL that are loaded. Raises Unservable, Unavailable."""
    names = loaded_weights(files.keys(), config, lambda name: read_remote(url, name, INDEX_BYTES + 1))
    return sum(files[name].size for name in names)


def read_remote(url: str, name: str, limit: int) -> bytes:
    """At most `limit` bytes of a file below the URL. Raises Unservable, Unavailable."""
    store, root = file_system(url)
    try:
        return bytes(store.cat_file(f"{root.rstrip('/')}/{name}", start=0, end=limit))
    except Exception as failure:
        raise Unavailable(f"{name[-64:]} cannot be read from the source ({type(failure).__name__})") from None


def staged(source: str, digest: str, files: Mapping[str, SourceFile], stagings: Path) -> Path:
    """The local copy of a source's files, fetched if need be; `digest` names the content that is meant.

    May be called from any thread and process. Raises Unservable where the files are not what they should be,
    Unavailable where they cannot be fetched, ModelLoadFailed and OSError where there is no room for them.
    """
    parent = stagings / hashlib.sha256(source.encode()).hexdigest()[:16]
    folder = parent / digest
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (parent / ".lock").open("w") as lock:
        flock(lock, LOCK_EX)  # One thread of one process of this node at a time; the end of a process releases it.
        if not folder.is_dir():
            with TemporaryDirectory(prefix=".draft-", dir=parent, ignore_cleanup_errors=True) as draft:
                _fetch(source, files, Path(draft))
                Path(draft).rename(folder)  # Only a whole and verified copy has this name.
        os.utime(folder)
        copies = sorted(filter(Path.is_dir, parent.iterdir()), key=lambda copy: copy.stat().st_mtime)
        for old in copies[:-STAGINGS_KEPT]:
            # Processes that have mapped its files can read them until they unmap them.
            shutil.rmtree(old, ignore_errors=True)
    return folder


def verify(folder: Path, files: Mapping[str, SourceFile]) -> None:
    """Raises Unservable where a file is missing, or has another size or SHA-256."""
    for name, expected in files.items():
        file = folder / name
        try:
            size = file.stat().st_size
            if expected.bytes is not None and size != expected.bytes:
                raise Unservable(f"{name[-64:]} has {size} bytes instead of {expected.bytes}")
            if expected.sha256 is not None and _sha256(file) != expected.sha256:
                raise Unservable(f"{name[-64:]} has another SHA-256 than model.yaml says")
        except FileNotFoundError:
            raise Unservable(f"{name[-64:]} is missing") from None


def _fetch(source: str, files: Mapping[str, SourceFile], draft: Path) -> None:
    remote = listing(source)
    wanted = {name: file for name, file in remote.items() if (name in files if files else _STAGED.fullmatch(name))}
    for name in files.keys() - remote.keys():
        raise Unservable(f"the source has no {name[-64:]}")
    needed, free = sum(file.size for file in wanted.values()), shutil.disk_usage(draft).free
    if needed > free:
        sizes = f"{needed / 2**20:.0f} MiB of disk, {free / 2**20:.0f} MiB are free"
        raise ModelLoadFailed.for_now(f"the cache has no room for its files: they take {sizes}")
    store, root = file_system(source)
    for name, file in wanted.items():
        _copy(store, f"{root.rstrip('/')}/{name}", draft / name, file.size)
    verify(draft, files)
    logger.info("staged %d files, %.1f MiB", len(wanted), needed / 2**20)


def _copy(store: Any, path: str, file: Path, size: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    copied = 0
    try:
        with store.open(path, "rb") as remote, file.open("wb") as local:
            # No more than was listed: free disk was checked for that.
            while copied <= size and (chunk := remote.read(CHUNK_BYTES)):
                local.write(chunk)
                copied += len(chunk)
            local.flush()
            os.fsync(local.fileno())
    except Exception as failure:
        if isinstance(failure, OSError) and failure.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise Unavailable(f"{file.name[-64:]} cannot be fetched ({type(failure).__name__})") from None
    if copied != size:
        raise Unavailable(f"{file.name[-64:]} came with {copied} bytes instead of {size}")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def allowed(source: str, prefixes: Iterable[str]) -> bool:
    """Whether the configuration lets models come from there."""
    return any(source.startswith(prefix) for prefix in prefixes) and ".." not in source
