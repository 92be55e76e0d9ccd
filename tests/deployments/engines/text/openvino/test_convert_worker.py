"""What the child converts is held against the model's plain forward before it is kept."""

from pathlib import Path

import openvino as ov
import pytest
import torch

from deployments.contract.errors import ModelLoadFailed
from deployments.engines.text.openvino import convert_worker
from deployments.engines.text.openvino.compiled import MODEL
from deployments.engines.text.openvino.convert_worker import make
from tests.support.text_models import CONFIGS, save_model

BMM = torch.bmm


def element_types(place: Path) -> set[str]:
    model = ov.Core().read_model(place / MODEL)
    return {
        node.get_element_type().get_type_name()
        for node in model.get_ops()
        if node.get_type_name() == "Constant" and len(node.get_output_shape(0)) > 1
    }


@pytest.mark.compiles
def test_a_model_that_computes_something_else_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make(folder, None, tmp_path)
    monkeypatch.setattr(convert_worker, "windows", lambda config: [3] * config.num_hidden_layers)
    assert not make(folder, None, tmp_path)


def test_positions_that_depend_on_the_length_of_the_text_are_not_traced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    monkeypatch.setattr(CONFIGS["llama"], "rope_parameters", rope)
    folder = save_model(tmp_path / "dynamic", "llama")
    with pytest.raises(NotImplementedError, match="length"):
        make(folder, None, tmp_path)


def test_a_folder_that_is_no_model_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="no config"):
        make(tmp_path, None, tmp_path)


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        (None, "f32"),
        ("bfloat16", "bf16"),
        ("float16", "f16"),
        ("int8", "i8"),
        ("int4", "u4"),
    ],
)
def test_weights_are_kept_in_the_dtype_that_is_asked_for(
    dtype: str | None, kept: str, folder: Path, tmp_path: Path
) -> None:
    assert make(folder, dtype, tmp_path)
    assert kept in element_types(tmp_path)
    assert torch.bmm is BMM, "what was replaced for the trace is back"


@pytest.mark.compiles
def test_a_model_that_makes_much_of_rounding_is_compared_without_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CONFIGS["llama"], "num_hidden_layers", 16)
    folder = save_model(tmp_path / "deep", "llama")
    assert make(folder, "bfloat16", tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(convert_worker, "MOST_IN_FLOAT32", 0)
        assert not make(folder, "bfloat16", tmp_path)
    monkeypatch.setattr(convert_worker, "windows", lambda config: [3] * config.num_hidden_layers)
    assert not make(folder, "bfloat16", tmp_path)


def test_16_bits_are_computed_where_the_processor_can() -> None:
    able = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert convert_worker._precision(torch.bfloat16) == ("bf16" if able else "f32")
    assert convert_worker._precision(torch.float32) == "f32"
