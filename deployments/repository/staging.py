"""Models that lie elsewhere: listed, and staged to this node's disk through fsspec, once, whole and verified."""

import fcntl
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from deployments.contract.errors import Unavailable
from deployments.repository.manifest import SourceFile, Unservable

logger = logging.getLogger("model_runtime.sources")

DEFAULT_SOURCES = ("s3://", "gs://", "hf://")
KEPT = 2
"""Stagings of one source that stay on disk: what serves, and what is tried beside it."""
CHUNK_BYTES = 4 * 2**20
_STAGED = re.compile(r"\w[^/\\\x00]*(/\w[^/\\\x00]*)*\.(json|safetensors|txt|jinja|model|yaml|png|jpe?g|webp)")
_NOT_PLAIN = ("..", "\\", "\0")
# What a store knows of a file's content, the surest first.
_MARKS = ("ETag", "etag", "md5Hash", "generation", "blob_id", "LastModified", "last_modified", "mtime", "created")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """`mark` changes when the content does, as far as the store tells."""

    size: int
    mark: str


def is_url(place: str) -> bool:
    return "://" in place


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. Raises Unservable, Unavailable."""
    scheme = url.partition("://")[0]
    if "::" in url:
        raise Unservable("a source is one URL, not a chain of them")
    try:
        found, path = fsspec.core.url_to_fs(url)
    except ImportError as missing:
        raise Unservable(f"{scheme}:// needs a driver that is not installed: {missing.msg[:128]}") from None
    except Exception as failure:
        raise Unavailable(f"the source cannot be reached ({type(failure).__name__})") from None
    return found, str(path)


def listing(url: str, depth: int | None = None) -> dict[str, RemoteFile]:
    """Every file below the URL by its name there. Raises Unservable, Unavailable."""
    found, root = file_system(url)
    try:
        found.invalidate_cache()
        details = found.find(root, maxdepth=depth, detail=True)
    except FileNotFoundError:
        return {}
    except Exception as failure:
        raise Unavailable(f"the source cannot be listed ({type(failure).__name__})") from None
    base = root.rstrip("/") + "/"
    return {
        path.removeprefix(base): RemoteFile(
            int(facts.get("size") or 0), str(next((facts[mark] for mark in _MARKS if facts.get(mark)), ""))
        )
        for path, facts in details.items()
        if path.startswith(base)
    }


def read_remote(url: str, name: str, limit: int) -> bytes:
    """At most `limit` bytes of a file below the URL. Raises Unservable, Unavailable."""
    found, root = file_system(url)
    try:
        content: bytes = found.cat_file(f"{root.rstrip('/')}/{name}", start=0, end=limit)
    except Exception as failure:
        raise Unavailable(f"{name[-64:]} cannot be read from the source ({type(failure).__name__})") from None
    return content


def staged(source: str, digest: str, files: Mapping[str, SourceFile], stagings: Path) -> Path:
    """The local folder of a source's files; `digest` says which content of it is meant. For any thread or process.

    Raises Unservable where the files are not what they should be, Unavailable where they cannot be had.
    """
    home = stagings / hashlib.sha256(source.encode()).hexdigest()[:16]
    place = home / digest
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(home / ".lock"):
        if not place.is_dir():
            draft = home / f".draft-{os.getpid()}"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            try:
                _fetch(source, files, draft)
                draft.rename(place)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        os.utime(place)
        _prune(home)
    return place


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
    there = listing(source)
    wanted = {name: there[name] for name in files if name in there} if files else dict(_worth_staging(there))
    if code := [name for name in there if name.endswith(".py")]:
        raise Unservable(f"holds code ({code[0][-64:]})")
    for name in files.keys() - there.keys():
        raise Unservable(f"the source has no {name[-64:]}")
    needed, free = sum(file.size for file in wanted.values()), shutil.disk_usage(draft).free
    if needed > free:
        raise Unservable(f"needs {needed / 2**20:.0f} MiB of disk, {free / 2**20:.0f} MiB are free")
    found, root = file_system(source)
    for name, file in wanted.items():
        _copy(found, f"{root.rstrip('/')}/{name}", draft / name, file.size)
    verify(draft, files)
    logger.info("staged %d files, %.1f MiB", len(wanted), needed / 2**20)


def _worth_staging(there: Mapping[str, RemoteFile]) -> Iterator[tuple[str, RemoteFile]]:
    """What a library reads of a model's folder; no pickles, nothing with an odd name."""
    for name, file in there.items():
        if _STAGED.fullmatch(name) and not any(part in name for part in _NOT_PLAIN):
            yield name, file


def _copy(found: Any, path: str, place: Path, size: int) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    copied = 0
    try:
        with found.open(path, "rb") as remote, place.open("wb") as local:
            # No more than was announced: the room was checked for that.
            while copied <= size and (chunk := remote.read(CHUNK_BYTES)):
                local.write(chunk)
                copied += len(chunk)
            local.flush()
            os.fsync(local.fileno())
    except Exception as failure:
        raise Unavailable(f"{place.name[-64:]} cannot be fetched ({type(failure).__name__})") from None
    if copied != size:
        raise Unavailable(f"{place.name[-64:]} came with {copied} bytes instead of {size}")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _prune(home: Path) -> None:
    places = sorted((p for p in home.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in places[KEPT:]:
        # What is mapped of them stays readable for whoever mapped it.
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process of this node at a time; a lock that its holder's death releases."""
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def allowed(source: str, prefixes: Iterable[str]) -> bool:
    """Whether the operator lets models come from there."""
    return any(source.startswith(prefix) for prefix in prefixes) and ".." not in source
