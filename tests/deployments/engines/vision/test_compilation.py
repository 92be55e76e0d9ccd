"""A compiled form replaces the eager one where it answers the same; where it does not, the status says why."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deployments.engines.vision import compilation, openvino_cache, openvino_compile
from deployments.engines.vision.compilation import gain
from deployments.engines.vision.forward import Forward
from tests.support.compiled_models import Loads, new
from tests.support.image_models import (
    Plain,
    answers,
    encoded,
    forward_of,
    loaded,
    on_one_thread,
    photo,
    pixels,
    saved,
)

__all__ = ["on_one_thread"]  # a fixture of every test here

pytestmark = [pytest.mark.compiles, pytest.mark.filterwarnings("ignore")]  # torch's own, while it exports


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_compiled_model_answers_the_same_from_any_thread_and_the_library_s_is_let_go(
    load: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    engine = loaded(saved(tmp_path / "m"))
    items = [pixels(engine, encoded(photo(seed=seed))) for seed in range(4)]
    before = np.stack(answers(engine, items))
    monkeypatch.setattr(openvino_compile, "best_batch_size", lambda *_: (batch_size, 0.0))
    forward = load(tmp_path / "m", cache=new(tmp_path / "cache"))._forward
    assert forward is not None
    weights = weakref.ref(next(forward.model.parameters()))
    np.testing.assert_allclose(forward(items), before, atol=1e-5)  # while it is compiled
    load.settle()
    assert (forward.form.note, forward.form.batch_size) == ("OpenVINO", batch_size)
    for count in range(1, batch_size + 1):
        np.testing.assert_allclose(forward(items[:count]), before[:count], atol=1e-5)
    with ThreadPoolExecutor(4) as threads:
        for n, probabilities in enumerate(threads.map(forward, [[items[n % 4]] for n in range(40)])):
            np.testing.assert_allclose(probabilities[0], before[n % 4], atol=1e-5)
    gc.collect()
    assert weights() is None


@pytest.mark.parametrize(
    ("times_faster", "reason"), [(0.0, "compiled it answers something else"), (1e-10, "compiled it is no faster")]
)
def test_what_is_not_taken_says_why(
    load: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times_faster: float, reason: str
) -> None:
    monkeypatch.setattr(compilation, "gain", lambda *_: times_faster)
    folder, cache = saved(tmp_path / "m"), new(tmp_path / "cache")
    for _ in range(2):  # the second time it is remembered
        engine = load(folder, cache=cache)
        load.settle()
        assert f"forward: PyTorch, eager ({reason})" in engine.runtime_info


@pytest.mark.parametrize("compiles", [True, False])
def test_the_library_s_batches_are_tried_only_where_it_stays(
    load: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiles: bool
) -> None:
    """They take hundreds of MiB."""
    folder, cache, tried = saved(tmp_path / "m"), new(tmp_path / "cache"), []

    def failing(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(Forward, "tune", lambda *_: tried.append(True))
    if not compiles:
        monkeypatch.setattr(openvino_cache, "make_in_child", failing)
    for number in range(1, 3):
        engine = load(folder, cache=cache)
        load.settle()
        assert ("forward: OpenVINO" in engine.runtime_info) == compiles
        assert len(tried) == (0 if compiles else number)


def test_a_model_that_is_closed_while_it_is_converted_is_let_go_at_once(
    load: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, converting, go_on = saved(tmp_path / "m"), threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        converting.set()
        assert go_on.wait(60)

    monkeypatch.setattr(openvino_cache, "make_in_child", slow)
    engine = load(folder, cache=new(tmp_path / "cache"))
    assert engine._forward is not None
    weights = weakref.ref(next(engine._forward.model.parameters()))
    assert converting.wait(60)
    engine.close()
    gc.collect()
    assert weights() is None
    go_on.set()


def test_images_of_many_shapes_stay_with_the_library(load: Loads, tmp_path: Path) -> None:
    folder = saved(tmp_path, "resnet")
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 40}, "do_center_crop": false}'
    )
    assert "forward: PyTorch, eager" in load(folder).runtime_info


def test_a_form_that_answers_something_else_is_not_taken() -> None:
    forward, other, mixing = forward_of(Plain().eval()), forward_of(Plain().eval()), forward_of(Plain(0.5).eval())
    mixing.model.convolution.load_state_dict(forward.model.convolution.state_dict())
    example = torch.rand(3, 16, 16)
    assert gain(forward, forward.form, example) > 0
    assert gain(forward, other.form, example) == 0
    in_batches = replace(mixing.form, batch_size=4)
    assert gain(mixing, in_batches, example) == 0


def test_forms_are_compared_on_the_same_images_each_time() -> None:
    """What comes out is remembered: it must not hang on luck."""
    forward, seen, example = forward_of(Plain().eval()), list[torch.Tensor](), torch.rand(3, 16, 16)

    def logits(batch: torch.Tensor) -> torch.Tensor:
        seen.append(batch)
        return forward.form.logits(batch)

    watched = replace(forward.form, logits=logits)
    for _ in range(2):
        gain(forward, watched, example)
        torch.rand(7)
    different = {batch.numpy().tobytes() for batch in seen}
    assert len(different) == 2


def test_nor_is_one_whose_way_for_a_lone_image_answers_something_else() -> None:
    forward, other = forward_of(Plain().eval()), forward_of(Plain().eval())
    example = torch.rand(3, 16, 16)
    assert gain(forward, forward.form.with_exclusive(forward.form), example) > 0
    assert gain(forward, forward.form.with_exclusive(other.form), example) == 0
