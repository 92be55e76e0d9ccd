"""Pooling and the modules after it compute what sentence-transformers' own modules compute."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from deployments.contract.errors import ModelLoadFailed
from deployments.engines.embedding.folder import MODES, Module
from deployments.engines.embedding.pooling import head_of, pooled
from tests.support.embedding.models import dense, pooling, save_modules


def theirs(hidden: torch.Tensor, lengths: torch.Tensor, prompt: int, modes: Any) -> torch.Tensor:
    from sentence_transformers.sentence_transformer.modules import Pooling

    mask = (torch.arange(hidden.shape[1])[None] < lengths[:, None]).long()
    features: dict[str, Any] = {"token_embeddings": hidden, "attention_mask": mask, "prompt_length": prompt}
    result: torch.Tensor = Pooling(hidden.shape[2], modes, include_prompt=not prompt)(features)["sentence_embedding"]
    return result


@pytest.mark.parametrize("prompt", [0, 2])
@pytest.mark.parametrize("modes", [*((mode,) for mode in MODES.values()), ("cls", "mean"), ("max", "lasttoken")])
def test_tokens_are_pooled_as_by_sentence_transformers(modes: tuple[str, ...], prompt: int) -> None:
    torch.manual_seed(1)
    hidden, lengths = torch.randn(4, 9, 6), torch.tensor([9, 3, 4, 7])
    ours = pooled(hidden, lengths, torch.full((4,), prompt), modes)
    torch.testing.assert_close(ours, theirs(hidden, lengths, prompt, modes), atol=1e-6, rtol=1e-6)


def test_each_text_of_a_forward_has_a_prompt_of_its_own() -> None:
    hidden = torch.randn(2, 5, 3)
    both = pooled(hidden, torch.tensor([5, 5]), torch.tensor([0, 2]), ("mean",))
    torch.testing.assert_close(both, torch.stack([hidden[0].mean(0), hidden[1, 2:].mean(0)]))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"function": "torch.nn.modules.linear.Identity"},
        {"function": "torch.nn.modules.activation.GELU", "bias": False},
        {"use_residual": True},
    ],
)
def test_a_dense_layer_computes_what_theirs_computes(tmp_path: Path, options: dict[str, Any]) -> None:
    from sentence_transformers.base.modules import Dense

    kind, config = dense(16, 8, **options)
    save_modules(tmp_path, pooling("mean"), (kind, config))
    place, vectors = tmp_path / "2_Dense", torch.randn(3, 16)
    known = Dense.load(str(place), local_files_only=True)({"sentence_embedding": vectors})["sentence_embedding"]
    torch.testing.assert_close(head_of([Module(kind, place, config)])(vectors), known.detach())


def test_a_norm_is_one_in_float32_also_where_the_weights_are_halves(tmp_path: Path) -> None:
    kind, config = dense(16, 8)
    save_modules(tmp_path, pooling("mean"), (kind, config))
    place = tmp_path / "2_Dense"
    halves = {"linear.weight": torch.rand(8, 16).bfloat16(), "linear.bias": torch.rand(8).bfloat16()}
    save_file(halves, place / "model.safetensors")
    vectors = head_of([Module(kind, place, config), Module("Normalize", place, {}), Module("Dropout", place, {})])(
        torch.randn(5, 16)
    )
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5), atol=1e-6, rtol=0)


def test_a_layer_norm_is_computed(tmp_path: Path) -> None:
    save_file({"norm.weight": torch.full((4,), 2.0), "norm.bias": torch.ones(4)}, tmp_path / "model.safetensors")
    vectors = torch.randn(3, 4)
    known = torch.nn.functional.layer_norm(vectors, (4,)) * 2 + 1
    torch.testing.assert_close(head_of([Module("LayerNorm", tmp_path, {"dimension": 4})])(vectors), known)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"activation_function": "os.system"}, "'os.system' is none of torch"),
        ({"activation_function": "torch.nn.functional.relu"}, "is none of torch"),
        ({"module_input_name": "token_embeddings"}, "'token_embeddings'"),
    ],
)
def test_a_layer_that_is_not_computed_here_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    kind, config = dense(16, 8)
    save_modules(tmp_path, pooling("mean"), (kind, config))
    with pytest.raises(ModelLoadFailed, match=reason):
        head_of([Module(kind, tmp_path / "2_Dense", config | change)])


def test_weights_that_are_missing_or_pickles_are_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(json.dumps({}).encode())
    with pytest.raises(ModelLoadFailed, match="pickles: save them as safetensors"):
        head_of([Module("Dense", tmp_path, {"in_features": 1, "out_features": 1})])
