"""What a compiled model that is read from disk takes in memory."""

import gc
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification, ViTConfig

from deployments.engines.vision.openvino_compile import BLOB, About, Shape, form_of, make
from deployments.engines.vision.openvino_runner import Compiled
from deployments.system.process_memory import ProcessMemory
from tests.support.image_models import (
    quick_measuring,
)

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
