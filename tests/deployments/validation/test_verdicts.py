"""Facts outlive the process; an entry that is damaged holds none."""

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deployments.system.artifact_cache import ArtifactCache
from deployments.validation.verdicts import FolderFacts


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "facts", 1 << 20)


def test_facts_that_many_threads_remember_are_all_kept(cache: ArtifactCache) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: FolderFacts(cache, "f").remember(str(n), f"fact {n}"), range(64)))
    again = FolderFacts(ArtifactCache(cache.root, 1 << 20), "f")
    assert [again.recall(str(n)) for n in range(64)] == [f"fact {n}" for n in range(64)]


def test_facts_of_another_content_are_unknown(cache: ArtifactCache) -> None:
    FolderFacts(cache, "f").remember("name", "fact")
    assert FolderFacts(cache, "g").recall("name") is None


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"name": 1}', "\xff"])
def test_a_damaged_entry_holds_no_facts_and_is_replaced(cache: ArtifactCache, content: str) -> None:
    (cache.root / "f").write_bytes(content.encode("latin-1"))
    facts = FolderFacts(cache, "f")
    assert facts.recall("name") is None
    facts.remember("name", "fact")
    assert facts.recall("name") == "fact"


def test_where_nothing_can_be_kept_a_fact_is_found_again(
    cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ArtifactCache, "write", full)
    facts = FolderFacts(cache, "f")
    facts.remember("name", "fact")
    assert facts.recall("name") is None
    assert "No space left on device" in caplog.text
