"""What a compiled image model takes in memory, and that it stands in only for one whose answers it gives."""

import gc
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification, ViTConfig
from transformers.modeling_outputs import ImageClassifierOutput

from deployments.engines.vision import forward as image_forward
from deployments.engines.vision.forward import Forward
from deployments.engines.vision.openvino_compile import BLOB, About, Shape, form_of, make
from deployments.engines.vision.openvino_runner import Compiled
from deployments.system.process_memory import ProcessMemory
from tests.support.image_models import quick_measuring

__all__ = ["quick_measuring"]  # a fixture of every test here

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's own, while it exports


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is not given back here")
def test_a_compiled_model_that_is_read_again_takes_no_more_than_is_accounted(tmp_path: Path) -> None:
    """Its weights are not held twice."""
    config = ViTConfig(
        hidden_size=512,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=2048,
        image_size=32,
        patch_size=16,
    )
    AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path / "m")
    place = tmp_path / "made"
    place.mkdir()
    make(tmp_path / "m", (3, 32, 32), 1, place)
    about, memory = About.of(place), ProcessMemory()

    def held() -> int:
        gc.collect()
        memory.give_back()
        return memory.held()

    before = held()
    with (place / BLOB).open("rb") as file:
        compiled = Compiled.read(file, 1, 1, about.weight_bytes)
    compiled(torch.zeros(1, 3, 32, 32))
    taken = held() - before
    assert 0.9 * about.weight_bytes < taken < form_of(compiled, Shape(1, 1)).resident_bytes


class Plain(torch.nn.Module):
    """A convolution; `mixing`: the other pictures of a batch change the answer."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, mixing: float = 0.0) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 4, 3)
        self.mixing = mixing

    def forward(self, pixel_values: torch.Tensor) -> Any:
        logits = self.convolution(pixel_values).mean((2, 3))
        return ImageClassifierOutput(logits=logits * (1 + self.mixing * logits.mean()))


def forward_of(model: Any) -> Forward:
    return Forward(image_forward.eager(model), multi_label=False, cores=1, model=model)


def test_inductor_compiles_where_the_model_is_not_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch, "compile", partial(torch.compile, backend="eager")
    )  # what a GPU's would write is not here
    model = Plain().eval()
    items = [torch.rand(3, 16, 16) for _ in range(4)]
    before = model(torch.stack(items)).logits.softmax(-1).detach()
    forward = forward_of(model)
    forward.form = image_forward.replace(forward.form, batch_size=4)
    form = image_forward.Inductor().compile(forward, items[0])
    for count in (1, 2, 4):
        np.testing.assert_allclose(forward.beside(form)(items[:count]), before[:count], atol=1e-6)
    weights = weakref.ref(model.convolution.weight)
    del model, forward, form
    gc.collect()
    assert weights() is None  # what was compiled hangs on the form alone


def test_a_form_that_answers_something_else_is_not_taken() -> None:
    forward, other, mixing = forward_of(Plain().eval()), forward_of(Plain().eval()), forward_of(Plain(0.5).eval())
    mixing.model.convolution.load_state_dict(forward.model.convolution.state_dict())
    example = torch.rand(3, 16, 16)
    assert image_forward.gain(forward, forward.form, example) > 0
    assert image_forward.gain(forward, other.form, example) == 0
    in_batches = image_forward.replace(mixing.form, batch_size=4)
    assert image_forward.gain(mixing, in_batches, example) == 0


def test_forms_are_compared_on_the_same_pictures_each_time() -> None:
    """What comes out is remembered: it must not hang on luck."""
    forward, seen, example = forward_of(Plain().eval()), list[torch.Tensor](), torch.rand(3, 16, 16)

    def logits(batch: torch.Tensor) -> torch.Tensor:
        seen.append(batch)
        return forward.form.logits(batch)

    watched = image_forward.replace(forward.form, logits=logits)
    for _ in range(2):
        image_forward.gain(forward, watched, example)
        torch.rand(7)
    different = {batch.numpy().tobytes() for batch in seen}
    assert len(different) == 2


def test_nor_is_one_whose_way_for_a_lone_picture_answers_something_else() -> None:
    forward, other = forward_of(Plain().eval()), forward_of(Plain().eval())
    example = torch.rand(3, 16, 16)
    assert image_forward.gain(forward, forward.form.with_exclusive(forward.form), example) > 0
    assert image_forward.gain(forward, forward.form.with_exclusive(other.form), example) == 0
