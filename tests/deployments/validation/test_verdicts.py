"""Findings outlive the process and are whole; a file that is broken is no finding."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deployments.validation.verdicts import FolderFacts


def test_many_threads_lose_no_finding(tmp_path: Path) -> None:
    place = tmp_path / "f.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: FolderFacts(place).remember(str(n), f"answer {n}"), range(64)))
    assert [FolderFacts(place).recall(str(n)) for n in range(64)] == [f"answer {n}" for n in range(64)]
    assert [file.name for file in tmp_path.iterdir()] == ["f.json"]


def test_a_broken_file_is_no_finding_and_is_replaced(tmp_path: Path) -> None:
    place = tmp_path / "f.json"
    for content in ("{", "[1]", '{"q": 1}'):
        place.write_text(content)
        assert FolderFacts(place).recall("q") is None
        FolderFacts(place).remember("q", "a")
        assert FolderFacts(place).recall("q") == "a"
