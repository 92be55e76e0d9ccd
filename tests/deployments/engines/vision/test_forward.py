"""The forward is compiled, batched and kept on disk only where its answers stay."""

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deployments.engines.vision import forward as image_forward
from deployments.engines.vision.engine import ImageClassificationEngine
from deployments.engines.vision.forward import Forward
from deployments.engines.vision.openvino_compile import make
from deployments.system.artifact_cache import DIGESTS, ArtifactCache
from deployments.system.worker_process import WorkerFailed
from tests.support.image_models import CONFIGS, LABELS, answer, encoded, loaded, photo, quick_measuring, saved

__all__ = ["quick_measuring"]  # a fixture of every test here

INF = float("inf")

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's own, while it exports


def new(folder: Path) -> ArtifactCache:
    return ArtifactCache(folder, 1 << 30)


def names(cache: ArtifactCache) -> set[str]:
    return {place.name for place in cache.root.iterdir() if not place.name.startswith(".")}


@pytest.fixture(autouse=True)
def converted_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own takes seconds to import what is there already; one test has it. Nothing is reported."""
    monkeypatch.delattr("openvino_telemetry.Telemetry.init")
    if "child" not in request.node.name:
        monkeypatch.setattr("deployments.engines.vision.openvino_cache.make_in_child", make)


@pytest.fixture(autouse=True)
def worth_it(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whether it is faster is not the claim here."""
    monkeypatch.setattr(image_forward, "WORTH_IT", 1e-9)
    yield
    joined()


SETTLED: list[threading.Event] = []


def load(folder: Path, **options: Any) -> ImageClassificationEngine:
    engine = ImageClassificationEngine.load(folder, **options)
    SETTLED.append(engine.settled)
    return engine


def joined() -> None:
    while SETTLED:
        assert SETTLED.pop().wait(240)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_compiled_model_answers_the_same_from_any_thread_and_the_library_s_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    engine = loaded(saved(tmp_path / "m"))
    items = [engine.preprocess(encoded(photo(seed=seed))) for seed in range(4)]
    before = np.stack([answered(engine, item) for item in items])
    monkeypatch.setattr("deployments.engines.vision.openvino_compile.best_batch_size", lambda *_: (batch_size, 0.0))
    forward = load(tmp_path / "m", cache=new(tmp_path / "cache"))._forward
    assert forward is not None
    weights = weakref.ref(next(forward.model.parameters()))
    np.testing.assert_allclose(forward(items), before, atol=1e-5)  # while it is compiled
    joined()
    assert (forward.form.note, forward.form.batch_size) == ("OpenVINO", batch_size)
    for count in range(1, batch_size + 1):
        np.testing.assert_allclose(forward(items[:count]), before[:count], atol=1e-5)
    with ThreadPoolExecutor(4) as threads:
        for n, probabilities in enumerate(threads.map(forward, [[items[n % 4]] for n in range(40)])):
            np.testing.assert_allclose(probabilities[0], before[n % 4], atol=1e-5)
    gc.collect()
    assert weights() is None


def answered(engine: ImageClassificationEngine, item: torch.Tensor) -> np.ndarray:
    (probabilities,) = engine.classify([item])
    assert isinstance(probabilities, np.ndarray)
    return probabilities


@pytest.mark.parametrize(
    ("kind", "dtype"), [*((kind, torch.float32) for kind in CONFIGS), ("mobilenet", torch.bfloat16)]
)
def test_models_are_compiled_kept_and_read_again_with_the_same_answers(
    tmp_path: Path, kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = saved(tmp_path / "m", kind, dtype), new(tmp_path / "cache")
    before = answer(loaded(folder), encoded(photo()))
    first = load(folder, cache=cache)
    joined()
    assert "forward: OpenVINO" in first.runtime_info
    with monkeypatch.context() as patched:
        patched.setattr("deployments.engines.vision.engine._load_model", None)  # the library is not asked
        second = load(folder, cache=cache)
    for engine in (first, second):
        bound = 1e-5 if dtype == torch.float32 else 0.05
        np.testing.assert_allclose(answer(engine, encoded(photo())), before, atol=bound)


def test_a_child_converts_and_leaves_nothing_else(tmp_path: Path) -> None:
    folder, cache = saved(tmp_path / "m"), new(tmp_path / "cache")
    engine = load(folder, cache=cache)
    joined()
    assert "forward: OpenVINO" in engine.runtime_info
    (entry,) = (place for place in cache.root.iterdir() if place.is_dir())
    assert names(cache) == {entry.name, f"{entry.name}.json"}
    assert {file.name for file in entry.iterdir()} == {"model.blob", "model.json", DIGESTS}


@pytest.mark.parametrize(("light_s", "in_batches_s", "at_once"), [(INF, INF, 2), (0.0, INF, 1), (INF, 0.0, 1)])
def test_a_light_forward_runs_beside_others_unless_batches_pay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, light_s: float, in_batches_s: float, at_once: int
) -> None:
    monkeypatch.setattr("deployments.engines.vision.openvino_compile.LIGHT_S", light_s)
    monkeypatch.setattr("deployments.engines.vision.openvino_compile.best_batch_size", lambda *_: (1, in_batches_s))
    folder, cache, file = saved(tmp_path / "m"), new(tmp_path / "cache"), encoded(photo())
    for _ in range(2):
        engine = load(folder, cache=cache, cores=2)
        joined()
        assert engine.at_once == at_once
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(partial(answer, engine), [file] * 12))
    np.testing.assert_allclose(answers, [answer(loaded(folder), file)] * 12, atol=1e-5)
    np.testing.assert_allclose(engine.classify([file], exclusive=True), answers[:1], atol=1e-5)


def test_another_content_or_dtype_is_not_answered_with_what_was_kept(tmp_path: Path) -> None:
    folder, cache = saved(tmp_path / "m"), new(tmp_path / "cache")
    load(folder, cache=cache)
    joined()
    assert "being compiled" in str(load(folder, dtype="bfloat16", cache=cache).runtime_info)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-4:] = b"\0\0\0\0"
    weights.write_bytes(content)
    assert "being compiled" in str(load(folder, cache=cache).runtime_info)


def test_what_cannot_be_compiled_stays_eager_and_that_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = saved(tmp_path / "m"), new(tmp_path / "cache")

    def failing(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("deployments.engines.vision.openvino_cache.make_in_child", failing)
    for _ in range(2):
        engine = load(folder, cache=cache)
        joined()
        assert "forward: PyTorch, eager (it cannot be compiled)" in engine.runtime_info
        assert answer(engine, encoded(photo())).shape == (len(LABELS),)
        monkeypatch.setattr(image_forward, "_compile_in_turn", failing)


@pytest.mark.parametrize(
    ("times_faster", "reason"), [(0.0, "compiled it answers something else"), (1e-10, "compiled it is no faster")]
)
def test_what_is_not_taken_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times_faster: float, reason: str
) -> None:
    monkeypatch.setattr(image_forward, "gain", lambda *_: times_faster)
    folder, cache = saved(tmp_path / "m"), new(tmp_path / "cache")
    for _ in range(2):  # the second time it is remembered
        engine = load(folder, cache=cache)
        joined()
        assert f"forward: PyTorch, eager ({reason})" in engine.runtime_info


@pytest.mark.parametrize("compiles", [True, False])
def test_the_library_s_batches_are_tried_only_where_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiles: bool
) -> None:
    """They take hundreds of MiB."""
    folder, cache, tried = saved(tmp_path / "m"), new(tmp_path / "cache"), []

    def failing(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(Forward, "tune", lambda *_: tried.append(True))
    if not compiles:
        monkeypatch.setattr("deployments.engines.vision.openvino_cache.make_in_child", failing)
    for loads in range(1, 3):
        engine = load(folder, cache=cache)
        joined()
        assert ("forward: OpenVINO" in engine.runtime_info) == compiles
        assert len(tried) == (0 if compiles else loads)


@pytest.mark.parametrize("failure", [WorkerFailed("signal"), WorkerFailed("timeout"), OSError()])
def test_what_could_not_be_found_out_is_tried_again_by_the_next_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    folder, cache = saved(tmp_path / "m"), new(tmp_path / "cache")

    def failing(*_: object) -> None:
        raise failure

    monkeypatch.setattr("deployments.engines.vision.openvino_cache.make_in_child", failing)
    engine = load(folder, cache=cache)
    joined()
    assert "forward: PyTorch, eager (it cannot be compiled)" in engine.runtime_info
    assert names(cache) == set()


def test_a_model_that_is_closed_while_it_is_converted_is_let_go_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, converting, go_on = saved(tmp_path / "m"), threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        converting.set()
        assert go_on.wait(60)

    monkeypatch.setattr("deployments.engines.vision.openvino_cache.make_in_child", slow)
    engine = load(folder, cache=new(tmp_path / "cache"))
    assert engine._forward is not None
    weights = weakref.ref(next(engine._forward.model.parameters()))
    assert converting.wait(60)
    engine.close()
    gc.collect()
    assert weights() is None
    go_on.set()


def test_pictures_of_many_shapes_stay_with_the_library(tmp_path: Path) -> None:
    folder = saved(tmp_path, "resnet")
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 40}, "do_center_crop": false}'
    )
    assert "forward: PyTorch, eager" in load(folder).runtime_info


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
def test_a_damaged_file_is_made_again(tmp_path: Path, damaged: str, kept: str | None) -> None:
    folder, cache = saved(tmp_path / "m"), new(tmp_path / "cache")
    engine = load(folder, cache=cache)
    joined()
    (entry,) = (place for place in cache.root.iterdir() if place.is_dir())
    file = entry.with_suffix(".json") if damaged == "verdict" else entry / damaged
    file.write_bytes(file.read_bytes()[:-1] + b"?" if kept is None else kept.encode())
    again = load(folder, cache=cache)
    assert "being compiled" in str(again.runtime_info)
    joined()
    assert "forward: OpenVINO" in again.runtime_info
    np.testing.assert_allclose(answer(again, encoded(photo())), answer(engine, encoded(photo())), atol=1e-6)
