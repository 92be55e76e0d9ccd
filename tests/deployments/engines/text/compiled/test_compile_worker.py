"""The model that is compiled has the layers of the model that serves."""

from pathlib import Path

import pytest
import torch

from deployments.engines.probes import ProbeCache
from deployments.engines.text.compiled.compile_worker import blank_model
from deployments.engines.text.layers.linear import PackedLinear
from deployments.engines.text.model import CausalModel
from tests.support.text_models import save_model


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "qwen2"])
def test_the_compiled_model_packs_the_layers_of_the_serving_model(kind: str, tmp_path: Path) -> None:
    """GPT-2's output layer is its embedding too, and stays plain."""
    loaded = CausalModel.load(save_model(tmp_path, kind), "cpu", None, ProbeCache(None, "cpu", None))
    blank = blank_model(str(tmp_path), torch.float32, "sdpa", loaded.linears, "blocked")
    packed, served = (
        {name for name, module in model.named_modules() if isinstance(module, PackedLinear)}
        for model in (blank, loaded.model)
    )
    assert packed == served
    assert packed
