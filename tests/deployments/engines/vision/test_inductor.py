"""Compiled code answers as the model does and goes with its form."""

import gc
import weakref
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from deployments.engines.vision.inductor import InductorCompiler
from tests.support.image_models import (
    Plain,
    forward_of,
    on_one_thread,
)

__all__ = ["on_one_thread"]  # a fixture of every test here

pytestmark = [pytest.mark.compiles, pytest.mark.filterwarnings("ignore")]  # torch's own, while it exports


def test_inductor_compiles_where_the_model_is_not_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch, "compile", partial(torch.compile, backend="eager")
    )  # what a GPU's would write is not here
    model = Plain().eval()
    items = [torch.rand(3, 16, 16) for _ in range(4)]
    before = model(torch.stack(items)).logits.softmax(-1).detach()
    forward = forward_of(model)
    forward.form = replace(forward.form, batch_size=4)
    form = InductorCompiler().compile(forward, items[0])
    for count in (1, 2, 4):
        np.testing.assert_allclose(forward.with_form(form)(items[:count]), before[:count], atol=1e-6)
    weights = weakref.ref(model.convolution.weight)
    del model, forward, form
    gc.collect()
    assert weights() is None  # what was compiled hangs on the form alone
