"""A child process makes the compiled model, for one batch or for several side by side."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from deployments.engines.vision import openvino_cache, openvino_compile
from deployments.system.artifact_cache import DIGESTS
from tests.support.compiled_models import Loads, names, new
from tests.support.image_models import answer, answers, encoded, loaded, on_one_thread, photo, saved

__all__ = ["on_one_thread"]  # a fixture of every test here

pytestmark = [pytest.mark.compiles, pytest.mark.filterwarnings("ignore")]  # torch's own, while it exports

INF = float("inf")


def test_a_child_converts_and_leaves_nothing_else(load: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_cache, "make_in_child", openvino_compile.make_in_child)
    folder, cache = saved(tmp_path / "m"), new(tmp_path / "cache")
    engine = load(folder, cache=cache)
    load.settle()
    assert "forward: OpenVINO" in engine.runtime_info
    (entry,) = (place for place in cache.root.iterdir() if place.is_dir())
    assert names(cache) == {entry.name, f"{entry.name}.json"}
    assert {file.name for file in entry.iterdir()} == {"model.blob", "model.json", DIGESTS}


@pytest.mark.parametrize(("light_s", "in_batches_s", "at_once"), [(INF, INF, 2), (0.0, INF, 1), (INF, 0.0, 1)])
def test_a_light_forward_runs_beside_others_unless_batches_pay(
    load: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, light_s: float, in_batches_s: float, at_once: int
) -> None:
    monkeypatch.setattr(openvino_compile, "LIGHT_S", light_s)
    monkeypatch.setattr(openvino_compile, "best_batch_size", lambda *_: (1, in_batches_s))
    folder, cache, file = saved(tmp_path / "m"), new(tmp_path / "cache"), encoded(photo())
    for _ in range(2):
        engine = load(folder, cache=cache, cores=2)
        load.settle()
        assert engine.at_once == at_once
    with ThreadPoolExecutor(4) as threads:
        got = list(threads.map(partial(answer, engine), [file] * 12))
    np.testing.assert_allclose(got, [answer(loaded(folder), file)] * 12, atol=1e-5)
    np.testing.assert_allclose(answers(engine, [file], exclusive=True), got[:1], atol=1e-5)


@pytest.mark.parametrize(("spin_s", "threads"), [(INF, "1 thread"), (-INF, "2 threads")])
def test_a_batch_has_one_thread_where_a_second_saves_less_than_it_spins(
    load: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spin_s: float, threads: str
) -> None:
    monkeypatch.setattr(openvino_compile, "SPIN_S", spin_s)
    monkeypatch.setattr(openvino_compile, "LIGHT_S", INF)
    monkeypatch.setattr(openvino_compile, "best_batch_size", lambda *_: (4, 0.0))
    folder, cache = saved(tmp_path / "m"), new(tmp_path / "cache")
    for _ in range(2):
        engine = load(folder, cache=cache, cores=2)
        load.settle()
        assert f"largest batch: 4; 1 at once, on {threads}" in engine.runtime_info
