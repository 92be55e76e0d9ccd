"""The forward is rearranged, batched and compiled only where its answers stay."""

import gc
import shutil
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import ImageClassifierOutput

from deployments.engines import image_forward
from deployments.engines.image_classification import ImageClassificationEngine
from tests.engines.image_models import LABELS, answer, encoded, loaded, photo, quick_measuring, saved

__all__ = ["quick_measuring"]  # a fixture of every test here


def test_batch_norms_are_folded_and_the_answers_stay(tmp_path: Path) -> None:
    engine = loaded(saved(tmp_path, "mobilenet"))
    assert any("52 batch norms folded" in note for note in engine.notes)


class Norms(torch.nn.Module):
    """A convolution, a norm, and perhaps the convolution's output again."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, again: float) -> None:
        super().__init__()
        self.convolution, self.norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)
        self.norm.running_mean = torch.rand(4)
        self.again = again

    def forward(self, pixel_values: torch.Tensor) -> Any:
        features = self.convolution(pixel_values)
        return ImageClassifierOutput(logits=(self.norm(features) + self.again * features).mean((2, 3)))


@pytest.mark.parametrize(("again", "folded"), [(0.0, 1), (-2.0, 0)])
def test_a_norm_is_folded_only_where_the_answers_stay(again: float, folded: int) -> None:
    model = Norms(again).eval()
    example = torch.rand(3, 16, 16)
    before = model(example[None]).logits.softmax(-1).detach()
    forward = image_forward.Forward(model, multi_label=False)
    forward.tune(example, compile_forward=False)
    assert forward.folded == folded
    np.testing.assert_allclose(forward([example]), before, atol=1e-6)


@pytest.mark.parametrize(
    ("quick_s", "overhead_s", "at_a_time", "threads"), [(1e9, 0.0, 3, 1), (1e9, 1e9, 1, 1), (0.0, 0.0, 1, 3)]
)
def test_a_quick_forward_runs_on_each_core_a_slow_one_on_all_and_one_that_is_overhead_in_batches(
    monkeypatch: pytest.MonkeyPatch, quick_s: float, overhead_s: float, at_a_time: int, threads: int
) -> None:
    monkeypatch.setattr(image_forward, "QUICK_S", quick_s)
    monkeypatch.setattr(image_forward, "WORTH_COMPILING_S", overhead_s)
    if overhead_s:
        monkeypatch.setattr(image_forward, "MEASURING_S", 1.0)
        monkeypatch.setattr(image_forward, "fastest_of", lambda run: 0.1)  # whatever the batch
    forward = image_forward.Forward(Norms(0.0).eval(), multi_label=False, cores=3)
    forward.tune(torch.rand(3, 16, 16), compile_forward=False)
    assert (forward.at_a_time, forward.threads) == (at_a_time, threads)
    forward([torch.rand(3, 16, 16)])
    assert torch.get_num_threads() == threads
    assert any(f"{at_a_time} at a time" in note for note in forward.notes)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of torch's own
def test_a_forward_compiled_in_the_background_answers_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_forward, "WORTH_COMPILING_S", 0.0)
    monkeypatch.setattr(
        image_forward.Forward, "_choose_batch_size", lambda self, example: setattr(self, "batch_size", 4) or 1
    )
    monkeypatch.setattr(image_forward.Forward, "_gain", lambda *_: 2.0)  # whether it is faster is not the claim here
    model = Norms(1.0).eval()
    items = [torch.rand(3, 16, 16) for _ in range(4)]
    before = model(torch.stack(items)).logits.softmax(-1).detach()
    forward = image_forward.Forward(model, multi_label=False)
    forward.tune(items[0], compile_forward=True)
    np.testing.assert_allclose(forward(items), before, atol=1e-6)  # while it compiles
    for thread in threading.enumerate():
        if thread.name == "compile":
            thread.join(240)
    assert forward.compilation == "compiled"
    forward._logits = None  # type: ignore[assignment,method-assign]  # no way back to the eager forward
    for count in (1, 2, 3, 4):
        np.testing.assert_allclose(forward(items[:count]), before[:count], atol=1e-6)
    with ThreadPoolExecutor(4) as threads:
        for n, answered in enumerate(threads.map(forward, [[items[n % 4]] for n in range(40)])):
            np.testing.assert_allclose(answered[0], before[n % 4], atol=1e-6)
    weights = weakref.ref(model.convolution.weight)
    del model, forward
    gc.collect()
    assert weights() is None


@pytest.mark.parametrize(
    ("compilers", "worth", "allowed"), [(None, 0.0, True), ("/bin/true", 1e9, True), ("/bin/true", 0.0, False)]
)
def test_without_a_compiler_a_need_or_leave_nothing_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compilers: str | None, worth: float, allowed: bool
) -> None:
    monkeypatch.setattr(image_forward.shutil, "which", lambda name: compilers)
    monkeypatch.setattr(image_forward, "WORTH_COMPILING_S", worth)
    engine = ImageClassificationEngine.load(saved(tmp_path), compile_forward=allowed)
    assert not [thread for thread in threading.enumerate() if thread.name == "compile"]
    assert "forward: eager," in engine.notes[1]


@pytest.mark.filterwarnings("ignore")
def test_a_compiler_that_fails_leaves_the_forward_eager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(image_forward, "WORTH_COMPILING_S", 0.0)
    monkeypatch.setattr(image_forward, "_can_compile", lambda device: True)
    monkeypatch.setattr(image_forward.torch, "compile", failing)
    engine = ImageClassificationEngine.load(saved(tmp_path))
    for thread in threading.enumerate():
        if thread.name == "compile":
            thread.join(60)
    assert "eager (it cannot be compiled)" in engine.notes[1]
    assert answer(engine, encoded(photo())).shape == (len(LABELS),)
