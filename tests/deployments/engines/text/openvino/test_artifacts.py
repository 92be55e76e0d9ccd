"""A folder is converted once, in a child; what lies in the cache is used, and what cannot be converted is said."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from deployments.engines.text.openvino import artifacts
from deployments.engines.text.openvino.artifacts import NotConvertible, converter, read_or_make
from deployments.engines.text.openvino.compiled import ABOUT, MODEL
from deployments.system.artifact_cache import ArtifactCache
from deployments.system.worker_process import RequestFailed
from tests.support.text_models import CONTEXT, VOCABULARY, save_model
from tests.test_layout import importers


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ArtifactCache]:
    with converter():  # The child stays for the whole test.
        yield ArtifactCache(tmp_path / "converted", 1 << 30)


def no_child(*_: object, **__: object) -> None:
    raise AssertionError("a child was asked")


@pytest.mark.compiles
def test_a_converted_model_is_read_without_a_child(
    folder: Path, cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = read_or_make(folder, None, 2, cache)
    assert (made.about.context, made.about.vocabulary, made.about.stop_ids) == (CONTEXT, VOCABULARY, [1])
    monkeypatch.setattr(artifacts, "converter", no_child)
    assert read_or_make(folder, None, 2, cache).about == made.about


@pytest.mark.compiles
def test_other_weights_another_dtype_and_other_settings_are_converted_anew(
    folder: Path, tmp_path: Path, cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_or_make(folder, None, 2, cache)
    changed = save_model(tmp_path / "changed", "llama")
    settings = json.loads((changed / "generation_config.json").read_text())
    (changed / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [1, 2]}))
    assert read_or_make(changed, None, 2, cache).about.stop_ids == [1, 2]
    monkeypatch.setattr(artifacts, "converter", no_child)
    with pytest.raises(AssertionError, match="a child was asked"):
        read_or_make(folder, "int8", 2, cache)


@pytest.mark.compiles
def test_a_damaged_entry_is_made_again(folder: Path, cache: ArtifactCache) -> None:
    made = read_or_make(folder, None, 2, cache)
    (place,) = cache.root.glob("[!.]*")
    (place / MODEL).write_text("damaged")
    assert read_or_make(folder, None, 2, cache).about == made.about
    assert (place / ABOUT).is_file()


@pytest.mark.compiles
def test_a_model_that_cannot_be_converted_leaves_nothing(tmp_path: Path, cache: ArtifactCache) -> None:
    with pytest.raises(RequestFailed):
        read_or_make(save_model(tmp_path / "mamba", "mamba"), None, 2, cache)
    assert not list(cache.root.glob("[!.]*"))


def test_a_model_with_other_logits_is_refused(
    folder: Path, cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "_worker", SimpleNamespace(ask=lambda *_: False, close=lambda: None))
    with pytest.raises(NotConvertible):
        read_or_make(folder, None, 2, cache)
    assert not list(cache.root.glob("[!.]*"))


def test_the_child_ends_with_the_last_load_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr(artifacts, "_users", 0)
    monkeypatch.setattr(artifacts, "_worker", None)
    monkeypatch.setattr(artifacts, "WorkerProcess", lambda module: SimpleNamespace(close=lambda: closed.append(module)))
    with converter() as first, converter() as second:
        assert first is second
    assert closed == ["deployments.engines.text.openvino.convert_worker"]
    with converter() as third:
        assert third is not first


@pytest.mark.slow
def test_only_the_child_imports_what_converts() -> None:
    """OpenVINO's frontend is megabytes of each process that has imported it."""
    folder = "deployments.engines.text.openvino"
    found = importers(f"{folder}.conversion") | importers(f"{folder}.convert_worker")
    assert found == {"deployments/engines/text/openvino/convert_worker.py"}
