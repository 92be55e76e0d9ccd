"""A probe's result is known again where nothing that it depends on has changed."""

from pathlib import Path

import pytest

from deployments.engines import probes
from deployments.engines.probes import ENGINES, ProbeCache, code_digest
from tests.support import PROJECT


class MemoryFacts:
    """Facts in a dict, and how often one was written."""

    def __init__(self) -> None:
        self.facts: dict[str, str] = {}
        self.writes = 0

    def recall(self, name: str) -> str | None:
        return self.facts.get(name)

    def remember(self, name: str, fact: str) -> None:
        self.facts[name] = fact
        self.writes += 1


@pytest.fixture
def facts() -> MemoryFacts:
    return MemoryFacts()


def test_a_result_is_known_to_the_next_load_in_the_same_circumstances(facts: MemoryFacts) -> None:
    assert ProbeCache(facts, "cpu", None).recall("probe") is None
    assert ProbeCache(facts, "cpu", None).remember("probe", "result") == "result"
    assert ProbeCache(facts, "cpu", None).recall("probe") == "result"
    assert ProbeCache(facts, "cpu", None).recall("another probe") is None
    assert ProbeCache(facts, "cuda", None).recall("probe") is None


def test_a_known_result_is_not_written_again(facts: MemoryFacts) -> None:
    cache = ProbeCache(facts)
    cache.remember("probe", "result")
    cache.remember("probe", "result", known="result")
    assert facts.writes == 1


def test_without_facts_nothing_is_kept() -> None:
    cache = ProbeCache(None)
    assert cache.remember("probe", "result") == "result"
    assert cache.recall("probe") is None


def test_a_result_of_another_machine_or_other_code_is_unknown(
    facts: MemoryFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    ProbeCache(facts).remember("probe", "result")
    monkeypatch.setattr(probes, "_here", lambda: "elsewhere")
    assert ProbeCache(facts).recall("probe") is None


def test_the_digest_covers_the_code_of_every_engine() -> None:
    assert PROJECT / "deployments" / "engines" == ENGINES


def test_a_change_to_any_module_at_any_depth_changes_the_digest(tmp_path: Path) -> None:
    deep = tmp_path / "text" / "layers"
    deep.mkdir(parents=True)
    seen = {code_digest(tmp_path)}
    for change in (
        lambda: (tmp_path / "device.py").write_text("a = 1"),
        lambda: (deep / "linear.py").write_text("b = 1"),
        lambda: (deep / "linear.py").write_text("b = 2"),
        lambda: (deep / "linear.py").rename(tmp_path / "text" / "linear.py"),
    ):
        before = len(seen)
        change()
        seen.add(code_digest(tmp_path))
        assert len(seen) == before + 1
    (tmp_path / "README.md").write_text("no code")
    assert code_digest(tmp_path) in seen
