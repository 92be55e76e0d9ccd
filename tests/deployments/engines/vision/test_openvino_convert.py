"""A model's folder becomes OpenVINO's format: the same logits, in float32, for batches of any size."""

from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from transformers import AutoModelForImageClassification

from deployments.engines.vision.openvino_convert import MOST_AT_ONCE, convert
from tests.support.image_models import saved

pytestmark = [pytest.mark.compiles, pytest.mark.filterwarnings("ignore")]  # of torch's own, while it exports


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_converted_model_gives_the_same_logits_for_batches_of_any_size(tmp_path: Path, dtype: torch.dtype) -> None:
    folder, file = saved(tmp_path / "m", dtype=dtype), tmp_path / "converted.xml"
    model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    convert(folder, (3, 32, 32), file)
    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert compiled.output(0).element_type == openvino.Type.f32
    for size in (1, 2, 5):
        batch = torch.rand(size, 3, 32, 32, generator=torch.Generator().manual_seed(size))
        with torch.inference_mode():
            expected = model(pixel_values=batch).logits
        (logits,) = compiled([batch.numpy()]).values()
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_a_converted_model_takes_images_of_one_shape_and_no_larger_batch(tmp_path: Path) -> None:
    convert(saved(tmp_path / "m"), (3, 32, 32), tmp_path / "converted.xml")
    batch, *sides = openvino.Core().read_model(tmp_path / "converted.xml").input(0).partial_shape
    assert (batch.min_length, batch.max_length) == (1, MOST_AT_ONCE)
    assert [side.get_length() for side in sides] == [3, 32, 32]


def test_a_folder_that_is_no_model_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json"):
        convert(tmp_path, (3, 32, 32), tmp_path / "converted.xml")
    assert not (tmp_path / "converted.xml").exists()
