"""Entries are whole or absent, for several processes at once; the cache is bounded and belongs to one user."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deployments.system.artifact_cache import DIGESTS, ArtifactCache, digest_key, private_folder
from tests.support import PROJECT

PATIENCE_S = 60.0


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache", 1000)


def make(cache: ArtifactCache, key: str, size: int = 10, used: int | None = None) -> None:
    with cache.draft(key) as draft:
        (draft / "file").write_bytes(b"x" * size)
    if used is not None:
        os.utime(cache.root / key, (used, used))


def names(cache: ArtifactCache) -> set[str]:
    """Of entries and drafts."""
    return {place.name for place in cache.root.iterdir() if place.name != ".lock"}


def test_a_folder_entry_is_found_as_it_was_written_by_every_cache_of_the_folder(cache: ArtifactCache) -> None:
    assert cache.find("a") is None
    with cache.draft("a") as draft:
        (draft / "one").write_text("1")
        (draft / "two").write_text("2")
        assert "a" not in cache
    found = ArtifactCache(cache.root, 1000).find("a")
    assert found is not None
    assert {file.name: file.read_text() for file in found.iterdir() if file.name != DIGESTS} == {"one": "1", "two": "2"}
    assert names(cache) == {"a"}


def test_a_file_entry_is_read_as_it_was_written_last(cache: ArtifactCache) -> None:
    assert cache.read("a") is None
    cache.write("a", b"1")
    cache.write("a", b"2")
    assert cache.read("a") == b"2"
    assert names(cache) == {"a"}


def test_a_draft_whose_block_raises_becomes_no_entry(cache: ArtifactCache) -> None:
    def fail() -> None:
        with cache.draft("a") as draft:
            (draft / "file").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert cache.find("a") is None
    assert names(cache) == set()


def test_of_two_writers_of_one_key_the_first_to_end_makes_the_entry(cache: ArtifactCache) -> None:
    with cache.draft("a") as slow:
        (slow / "file").write_text("slow")
        with ArtifactCache(cache.root, 1000).draft("a") as fast:
            (fast / "file").write_text("fast")
        assert slow.is_dir(), "the draft of a live writer is kept"
    found = cache.find("a")
    assert found is not None
    assert (found / "file").read_text() == "fast"
    assert names(cache) == {"a"}


def test_many_writers_and_readers_never_meet_half_an_entry(cache: ArtifactCache) -> None:
    contents = [bytes([n]) * 5000 for n in range(8)]

    def write(content: bytes) -> None:
        for _ in range(20):
            cache.write("a", content)

    def read() -> None:
        while not ended.is_set():
            assert cache.read("a") in (None, *contents)

    ended = threading.Event()
    with ThreadPoolExecutor(10) as pool:
        reading = [pool.submit(read) for _ in range(2)]
        for written in [pool.submit(write, content) for content in contents]:
            written.result()
        ended.set()
        for one in reading:
            one.result()


def emptied(entry: Path) -> None:
    (entry / "file").write_bytes(b"")


def changed(entry: Path) -> None:
    (entry / "file").write_bytes(b"y" * 10)


def missing(entry: Path) -> None:
    (entry / "file").unlink()


def added(entry: Path) -> None:
    (entry / "other").write_text("")


def unsealed(entry: Path) -> None:
    (entry / DIGESTS).unlink()


def garbage(entry: Path) -> None:
    (entry / DIGESTS).write_text("{")


@pytest.mark.parametrize("damage", [emptied, changed, missing, added, unsealed, garbage])
def test_a_damaged_entry_is_removed_and_can_be_made_again(cache: ArtifactCache, damage: Callable[[Path], None]) -> None:
    make(cache, "a")
    damage(cache.root / "a")
    assert cache.find("a") is None
    assert names(cache) == set()
    make(cache, "a")
    assert cache.find("a") is not None


def test_the_least_recently_used_entries_are_evicted_first(cache: ArtifactCache) -> None:
    for age, key in enumerate("abcd"):
        make(cache, key, 100, used=1000 + age)
    assert cache.find("a") is not None  # a use
    cache.write("e", b"x" * 500)
    assert names(cache) == {"a", "d", "e"}
    assert cache.read("d") is None, "a folder is no file"


def test_a_file_entry_that_is_read_counts_as_used(cache: ArtifactCache) -> None:
    for age, key in enumerate("abcd"):
        cache.write(key, b"x" * 240)
        os.utime(cache.root / key, (1000 + age, 1000 + age))
    assert cache.read("a") is not None
    cache.write("e", b"x" * 240)
    assert names(cache) == {"a", "c", "d", "e"}


def test_an_entry_larger_than_the_bound_is_kept_until_the_next_is_made(cache: ArtifactCache) -> None:
    cache.write("large", b"x" * 5000)
    assert names(cache) == {"large"}
    cache.write("small", b"x")
    assert names(cache) == {"small"}


WRITER = """
import sys
from pathlib import Path
from deployments.system.artifact_cache import ArtifactCache
with ArtifactCache(Path(sys.argv[1]), 1000).draft("a") as draft:
    (draft / "file").write_text("half")
    print(flush=True)
    sys.stdin.read()
"""


def test_the_draft_of_a_process_that_was_killed_is_removed_and_of_one_that_lives_is_kept(cache: ArtifactCache) -> None:
    command = [sys.executable, "-c", WRITER, str(cache.root)]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        writer.stdout.readline()
        drafts = names(cache)
        ArtifactCache(cache.root, 1000)
        assert names(cache) == drafts != set()
        writer.kill()
        writer.wait(PATIENCE_S)
    ArtifactCache(cache.root, 1000)
    assert names(cache) == set()


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)
    with pytest.raises(PermissionError):
        ArtifactCache(tmp_path / "cache", 1000)


def test_a_new_folder_is_the_users_alone(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "deep" / "folder")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(PermissionError):
        private_folder(tmp_path)


def test_a_key_depends_on_every_part(tmp_path: Path) -> None:
    keys = {digest_key(*parts) for parts in ([], ["a"], ["b"], ["a", "b"], [["a", "b"]], [{"a": 1}], [{"a": 2}])}
    assert len(keys) == 7
    assert digest_key({"a": 1, "b": 2}) == digest_key({"b": 2, "a": 1})


def test_where_nothing_can_be_written_what_is_there_is_found_and_only_writing_fails(
    cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    make(cache, "folder")
    make(cache, "damaged")
    (cache.root / "damaged" / "file").write_bytes(b"y")
    cache.write("file", b"content")
    monkeypatch.setattr(os, "utime", refused)
    monkeypatch.setattr(ArtifactCache, "_locked", refused)
    cache = ArtifactCache(cache.root, 1000)
    assert cache.find("folder") == cache.root / "folder"
    assert cache.read("file") == b"content"
    assert cache.find("damaged") is None
    with pytest.raises(OSError, match="Read-only"):
        cache.write("file", b"other")
    with pytest.raises(OSError, match="Read-only"):
        make(cache, "new")
    assert cache.read("file") == b"content"


def test_on_a_full_disk_an_entry_stays_as_it_was_and_a_new_one_is_none(cache: ArtifactCache) -> None:
    """A limit on the size of files stands for a full disk."""
    program = """
import resource, sys
from pathlib import Path
from deployments.system.artifact_cache import ArtifactCache
cache = ArtifactCache(Path(sys.argv[1]), 1000)
cache.write("file", b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (2, resource.RLIM_INFINITY))
def make():
    with cache.draft("new") as draft:
        (draft / "x").write_bytes(b"xxxx")
for attempt in (lambda: cache.write("file", b"newer"), make):
    try:
        attempt()
    except OSError as failure:
        print(failure.errno)
print(cache.read("file").decode(), cache.find("new"))
"""
    run = subprocess.run(
        [sys.executable, "-c", program, str(cache.root)], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [str(errno.EFBIG), str(errno.EFBIG), "old", "None"]
