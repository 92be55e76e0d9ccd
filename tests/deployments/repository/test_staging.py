"""A model behind a URL is copied to this node once, whole and verified, or not at all."""

import errno
import fcntl
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import fsspec
import pytest

from deployments.contract.errors import ModelLoadFailed, Unavailable
from deployments.repository import staging
from deployments.repository.manifest import SourceFile, Unservable
from deployments.repository.staging import STAGINGS_KEPT, allowed, content_digest, listing, staged, verify
from tests.deployments.repository.stores import checksums, names, put, write


def test_the_files_of_a_model_are_copied_and_those_of_no_use_are_not(
    store: str, text_model: Path, tmp_path: Path
) -> None:
    put(text_model, f"{store}/m")
    write(f"{store}/m/pytorch_model.bin", b"a pickle")
    write(f"{store}/m/.hidden.json", b"{}")
    folder = staged(f"{store}/m", "a", {}, tmp_path / "staged")
    assert names(folder) == names(text_model)
    assert (folder / "model.safetensors").read_bytes() == (text_model / "model.safetensors").read_bytes()


def test_a_changed_file_changes_the_digest_of_the_content(store: str, text_model: Path) -> None:
    put(text_model, f"{store}/m")
    before = content_digest(listing(f"{store}/m"))
    assert content_digest(listing(f"{store}/m")) == before
    write(f"{store}/m/generation_config.json", b'{"eos_token_id": 3}')
    assert content_digest(listing(f"{store}/m")) != before


def test_with_checksums_only_the_files_named_are_copied_and_only_if_they_match(
    store: str, text_model: Path, tmp_path: Path
) -> None:
    put(text_model, f"{store}/m")
    write(f"{store}/m/notes.txt", b"of no use")
    expected = checksums(text_model)
    assert names(staged(f"{store}/m", "a", expected, tmp_path / "staged")) == names(text_model)
    weights = (text_model / "model.safetensors").read_bytes()
    for number, (content, fault) in enumerate(
        [
            (weights[:-1], f"model.safetensors has {len(weights) - 1} bytes instead of {len(weights)}"),
            (weights[:-1] + b"\0", "model.safetensors has another SHA-256"),
        ]
    ):
        write(f"{store}/m/model.safetensors", content)
        with pytest.raises(Unservable, match=fault):
            staged(f"{store}/m", f"bad{number}", expected, tmp_path / "staged")
    with pytest.raises(Unservable, match="the source has no more.json"):
        staged(f"{store}/m", "c", expected | {"more.json": SourceFile()}, tmp_path / "staged")
    (parent,) = (tmp_path / "staged").iterdir()
    assert names(parent) == {"a", ".lock"}, "a copy that failed is left behind"


def test_four_threads_that_need_a_source_copy_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    waiting = threading.Semaphore(0)

    def fetch(source: str, files: object, draft: Path) -> None:
        fetched.append(source)
        for _ in range(4):  # Until all four threads have come to the lock, this one included.
            assert waiting.acquire(timeout=10)
        (draft / "config.json").write_text("{}")

    def flock(file: IO[str], operation: int) -> None:
        waiting.release()
        fcntl.flock(file, operation)

    monkeypatch.setattr(staging, "_fetch", fetch)
    monkeypatch.setattr(staging, "flock", flock)
    with ThreadPoolExecutor(4) as callers:
        folders = set(callers.map(lambda _: staged("memory://m", "a", {}, tmp_path), range(4)))
    assert len(fetched) == len(folders) == 1


def test_a_copy_that_breaks_off_leaves_nothing_and_can_be_repeated(
    memory_store: str, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(text_model, f"{memory_store}/m")

    def broken(*arguments: object, **options: object) -> None:
        raise ConnectionError("secret.example/key")

    with monkeypatch.context() as patched:
        patched.setattr(type(fsspec.filesystem("memory")), "_open", broken)
        with pytest.raises(Unavailable, match="cannot be fetched") as failed:
            staged(f"{memory_store}/m", "a", {}, tmp_path)
    assert "secret" not in str(failed.value)
    assert names(staged(f"{memory_store}/m", "a", {}, tmp_path)) == names(text_model)


def test_only_the_latest_contents_of_a_source_are_kept(memory_store: str, text_model: Path, tmp_path: Path) -> None:
    put(text_model, f"{memory_store}/m")
    for digest in "abcd":
        staged(f"{memory_store}/m", digest, {}, tmp_path)
    (parent,) = tmp_path.iterdir()
    assert len(names(parent) - {".lock"}) == STAGINGS_KEPT
    assert "d" in names(parent)


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("memory://a::file://b", "is one URL"),
        ("gopher://x/y", "cannot be reached|not installed"),
        ("s3://bucket/m", "^s3:// needs a driver that is not installed: Install s3fs to access S3$"),
        ("gs://bucket/m", "^gs:// needs a driver that is not installed: Please install gcsfs"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused_with_its_fault(tmp_path: Path, source: str, fault: str) -> None:
    with pytest.raises((Unservable, Unavailable), match=fault):
        staged(source, "a", {}, tmp_path)


def test_a_source_is_allowed_by_the_beginning_of_its_url() -> None:
    assert allowed("s3://bucket/m", ["gs://", "s3://bucket/"])
    assert not allowed("s3://other/m", ["gs://", "s3://bucket/"])
    assert not allowed("s3://bucket/../other/m", ["s3://bucket/"])


def test_files_on_disk_are_verified_by_size_and_checksum(text_model: Path) -> None:
    verify(text_model, checksums(text_model))
    with pytest.raises(Unservable, match="^model.safetensors has another SHA-256 than model.yaml says$"):
        verify(text_model, {"model.safetensors": SourceFile(sha256="a" * 64)})
    with pytest.raises(Unservable, match="^config.json has [0-9]+ bytes instead of 1$"):
        verify(text_model, {"config.json": SourceFile(bytes=1)})
    with pytest.raises(Unservable, match="^more.json is missing$"):
        verify(text_model, {"more.json": SourceFile()})


def test_a_disk_without_room_for_a_model_is_no_fault_of_the_model(
    memory_store: str, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(text_model, f"{memory_store}/m")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
        with pytest.raises(ModelLoadFailed, match="the cache has no room") as failed:
            staged(f"{memory_store}/m", "a", {}, tmp_path)
    assert failed.value.retryable

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            staged(f"{memory_store}/m", "a", {}, tmp_path)
    assert names(staged(f"{memory_store}/m", "a", {}, tmp_path)) == names(text_model)
