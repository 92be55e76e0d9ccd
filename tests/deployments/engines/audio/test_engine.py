"""Folders that do not load, and why; what is read of them."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from deployments.contract.errors import ModelLoadFailed
from deployments.engines.audio.engine import load_engine
from tests.support.audio.expected import frames, generated, spelled
from tests.support.audio.files import words
from tests.support.audio.models import ctc, moonshine, speech_to_text
from tests.support.audio.speaking import written


@pytest.mark.slow
def test_encoders_and_decoders_write_what_transformers_does(tmp_path: Path) -> None:
    for name, made in (("moonshine", moonshine), ("speech_to_text", speech_to_text)):
        folder = made(tmp_path / name)
        engine = load_engine(folder)
        for seed in range(3):
            sound = words(2.0 + seed, seed=seed)
            assert written(engine, sound).text == generated(folder, sound)
        assert engine.runtime_info


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "feature extractor"),
        (lambda folder: (folder / "vocab.json").write_text("{"), "tokenizer"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      "),
            "cannot be read|missing",
        ),
        (
            lambda folder: (folder / "config.json").write_text(
                json.dumps(json.loads((folder / "config.json").read_text()) | {"vocab_size": 7})
            ),
            "another shape",
        ),
    ],
)
def test_a_folder_that_does_not_load_says_why_in_one_line(tmp_path: Path, spoil: object, reason: str) -> None:
    folder = ctc(tmp_path / "m")
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(ModelLoadFailed, match=reason) as failure:
        load_engine(folder)
    assert "\n" not in failure.value.message
    assert str(tmp_path) not in failure.value.message


def test_tensors_that_only_training_uses_may_be_missing(tmp_path: Path) -> None:
    """As in facebook/wav2vec2-base-960h."""
    folder = ctc(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    del weights["wav2vec2.masked_spec_embed"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert written(load_engine(folder), words(1.0)).text == spelled(folder, frames(folder, words(1.0)))
    del weights["lm_head.bias"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelLoadFailed, match="1 tensors are missing"):
        load_engine(folder)


def test_a_dtype_that_torch_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="dtype"):
        load_engine(ctc(tmp_path / "m"), dtype="float12")
    assert written(load_engine(tmp_path / "m", dtype="bfloat16"), words(1.0)).text
