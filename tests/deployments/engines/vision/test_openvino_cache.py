"""Compiled models are found again by their content; damaged and foreign entries are not used."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deployments.engines.vision import compilation, openvino_cache
from deployments.engines.vision import engine as engine_module
from deployments.system.worker_process import WorkerFailed
from tests.support.compiled_models import Loads, names, new
from tests.support.image_models import CONFIGS, LABELS, answer, encoded, loaded, on_one_thread, photo, saved

__all__ = ["on_one_thread"]  # a fixture of every test here

pytestmark = [pytest.mark.compiles, pytest.mark.filterwarnings("ignore")]  # torch's own, while it exports


@pytest.mark.parametrize(
    ("kind", "dtype"), [*((kind, torch.float32) for kind in CONFIGS), ("mobilenet", torch.bfloat16)]
)
def test_models_are_compiled_kept_and_read_again_with_the_same_answers(
    load: Loads, tmp_path: Path, kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = saved(tmp_path / "m", kind, dtype), new(tmp_path / "cache")
    before = answer(loaded(folder), encoded(photo()))
    first = load(folder, cache=cache)
    load.settle()
    assert "forward: OpenVINO" in first.runtime_info
    with monkeypatch.context() as patched:
        patched.setattr(engine_module, "load_model", None)  # the library is not asked
        second = load(folder, cache=cache)
    for engine in (first, second):
        bound = 1e-5 if dtype == torch.float32 else 0.05
        np.testing.assert_allclose(answer(engine, encoded(photo())), before, atol=bound)


def test_another_content_or_dtype_is_not_answered_with_what_was_kept(load: Loads, tmp_path: Path) -> None:
    folder, cache = saved(tmp_path / "m"), new(tmp_path / "cache")
    load(folder, cache=cache)
    load.settle()
    assert "being compiled" in str(load(folder, dtype="bfloat16", cache=cache).runtime_info)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-4:] = b"\0\0\0\0"
    weights.write_bytes(content)
    assert "being compiled" in str(load(folder, cache=cache).runtime_info)


def test_what_cannot_be_compiled_stays_eager_and_that_is_remembered(
    load: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = saved(tmp_path / "m"), new(tmp_path / "cache")

    def failing(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(openvino_cache, "make_in_child", failing)
    for _ in range(2):
        engine = load(folder, cache=cache)
        load.settle()
        assert "forward: PyTorch, eager (it cannot be compiled)" in engine.runtime_info
        assert answer(engine, encoded(photo())).shape == (len(LABELS),)
        monkeypatch.setattr(compilation, "_compile_in_turn", failing)


@pytest.mark.parametrize("failure", [WorkerFailed("signal"), WorkerFailed("timeout"), OSError()])
def test_what_could_not_be_found_out_is_tried_again_by_the_next_load(
    load: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    folder, cache = saved(tmp_path / "m"), new(tmp_path / "cache")

    def failing(*_: object) -> None:
        raise failure

    monkeypatch.setattr(openvino_cache, "make_in_child", failing)
    engine = load(folder, cache=cache)
    load.settle()
    assert "forward: PyTorch, eager (it cannot be compiled)" in engine.runtime_info
    assert names(cache) == set()


@pytest.mark.parametrize(
    ("damaged", "kept"),
    [
        ("verdict", "{"),
        ("verdict", '{"batch_size": 1, "note": "OpenVINO"}'),
        ("verdict", "[]"),
        ("model.json", "{"),
        ("model.json", "[1]"),
        ("model.blob", None),
    ],
)
def test_a_damaged_file_is_made_again(load: Loads, tmp_path: Path, damaged: str, kept: str | None) -> None:
    folder, cache = saved(tmp_path / "m"), new(tmp_path / "cache")
    engine = load(folder, cache=cache)
    load.settle()
    (entry,) = (place for place in cache.root.iterdir() if place.is_dir())
    file = entry.with_suffix(".json") if damaged == "verdict" else entry / damaged
    file.write_bytes(file.read_bytes()[:-1] + b"?" if kept is None else kept.encode())
    again = load(folder, cache=cache)
    assert "being compiled" in str(again.runtime_info)
    load.settle()
    assert "forward: OpenVINO" in again.runtime_info
    np.testing.assert_allclose(answer(again, encoded(photo())), answer(engine, encoded(photo())), atol=1e-6)
