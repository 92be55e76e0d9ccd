"""Stores behind URLs for tests: in memory, and on this machine's disk."""

import hashlib
from pathlib import Path

import fsspec
import yaml

from deployments.repository.manifest import SourceFile


def put(folder: Path, url: str) -> None:
    """Copy the files of a folder into a store."""
    for file in folder.iterdir():
        write(f"{url}/{file.name}", file.read_bytes())


def write(url: str, content: bytes) -> None:
    system, path = fsspec.core.url_to_fs(url)
    system.makedirs(path.rpartition("/")[0], exist_ok=True)
    system.pipe_file(path, content)


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def checksums(folder: Path) -> dict[str, SourceFile]:
    return {
        file.name: SourceFile(bytes=file.stat().st_size, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
        for file in folder.iterdir()
    }


def refer(folder: Path, source: str) -> Path:
    """A model's folder with nothing but a model.yaml that names the source."""
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text(yaml.safe_dump({"source": source, "family": "text_generation"}))
    return folder
