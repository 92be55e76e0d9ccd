"""A folder that cannot serve is refused while loading, in one line that names no path."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.contract.errors import ModelLoadFailed
from tests.support.image_models import loaded, on_one_thread, saved

__all__ = ["on_one_thread"]  # a fixture of every test here


def emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def without(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def with_text(name: str, text: str) -> Any:
    return lambda folder: (folder / name).write_text(text)


def pickled_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def truncated_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def fewer_labels(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["hidden_size"] = 20
    (folder / "config.json").write_text(json.dumps(config))


def missing_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("classifier.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


BROKEN = {
    "an empty folder": emptied,
    "no config": without("config.json"),
    "no weights": without("model.safetensors"),
    "no preprocessor": without("preprocessor_config.json"),
    "a config that is no JSON": with_text("config.json", "{"),
    "a preprocessor that is no JSON": with_text("preprocessor_config.json", "{"),
    "a preprocessor of another world": with_text("preprocessor_config.json", '{"image_processor_type": "Nothing"}'),
    "another architecture": with_text("config.json", '{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}'),
    "code of its own": with_text(
        "config.json", '{"model_type": "mine", "auto_map": {"AutoModelForImageClassification": "mine.Model"}}'
    ),
    "weights in pickle": pickled_weights,
    "truncated weights": truncated_weights,
    "weights of another shape": fewer_labels,
    "missing weights": missing_weights,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_folder_fails_to_load_with_one_line_and_no_path(tmp_path: Path, fault: str) -> None:
    BROKEN[fault](saved(tmp_path / "secret"))
    with pytest.raises(ModelLoadFailed) as failed:
        loaded(tmp_path / "secret")
    assert "\n" not in failed.value.message
    assert "/" not in failed.value.message
    assert len(failed.value.message) > 20


def test_labels_that_do_not_match_the_outputs_are_counted(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadFailed, match="the weights have 5 outputs, config.json names 2 labels") as failed:
        loaded(folder)
    assert not failed.value.retryable


def test_an_unknown_dtype_fails_to_load(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="dtype"):
        loaded(saved(tmp_path), dtype="nonsense")
