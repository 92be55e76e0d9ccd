"""What a compiled model that is read from disk takes in memory."""

import gc
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification, ViTConfig

from deployments.engines.vision.openvino_compile import ABOUT, BLOB, form_of, make
from deployments.engines.vision.openvino_runner import Compiled, Shape
from deployments.system.process_memory import ProcessMemory
from tests.support.image_models import (
    on_one_thread,
)

__all__ = ["on_one_thread"]  # a fixture of every test here

pytestmark = [pytest.mark.compiles, pytest.mark.filterwarnings("ignore")]  # torch's own, while it exports


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
    (*shape, weight_bytes), memory = json.loads((place / ABOUT).read_bytes()), ProcessMemory()

    def held() -> int:
        gc.collect()
        memory.give_back()
        return memory.held()

    before = held()
    with (place / BLOB).open("rb") as file:
        compiled = Compiled.read(file, Shape(*shape), weight_bytes)
    compiled(torch.zeros(1, 3, 32, 32))
    taken = held() - before
    # It may fill pages that the process held before.
    assert 0.5 * weight_bytes < taken < form_of(compiled).resident_bytes
