"""What a folder says of its embeddings is read as sentence-transformers reads it, of any age."""

import json
from pathlib import Path
from typing import Any

import pytest

from deployments.contract.errors import ModelLoadFailed
from deployments.engines.embedding.folder import EmbeddingFolder
from tests.support.embedding.models import NORMALIZE, dense, pooling, save_modules


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        (pooling("cls")[1], ("cls",)),
        (pooling("mean", "cls")[1], ("cls", "mean")),
        (pooling()[1], ("mean",)),
        ({"embedding_dimension": 16, "pooling_mode": "weightedmean"}, ("weightedmean",)),
        ({"embedding_dimension": 16, "pooling_mode": ["mean", "max"]}, ("mean", "max")),
    ],
)
def test_the_pooling_is_a_name_or_flags(tmp_path: Path, config: dict[str, Any], modes: tuple[str, ...]) -> None:
    assert EmbeddingFolder.read(save_modules(tmp_path, ("Pooling", config))).modes == modes


@pytest.mark.parametrize("package", ["sentence_transformers.models", "sentence_transformers.base.modules.of.any.name"])
def test_modules_are_known_by_the_last_part_of_their_type(tmp_path: Path, package: str) -> None:
    read = EmbeddingFolder.read(save_modules(tmp_path, pooling("cls"), dense(16, 8), NORMALIZE, package=package))
    assert [module.kind for module in read.modules] == ["Dense", "Normalize"]


def test_prompts_are_the_folders_beside_two_empty_ones(tmp_path: Path) -> None:
    settings = {"prompts": {"query": "ask: ", "passage": None}, "default_prompt_name": "query", "truncate_dim": 4}
    text = {"max_seq_length": 16, "do_lower_case": True}
    read = EmbeddingFolder.read(save_modules(tmp_path, pooling("mean"), text=text, settings=settings))
    assert read.prompts == {"query": "ask: ", "document": "", "passage": ""}
    assert (read.default_prompt, read.dimensions, read.max_tokens, read.lowercase) == ("ask: ", 4, 16, True)


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        ({"architectures": ["BertModel"]}, ("mean",)),
        ({"architectures": ["Qwen3ForCausalLM"]}, ("lasttoken",)),
        ({"architectures": ["Qwen3ForCausalLM"], "is_causal": False}, ("mean",)),
        ({}, ("mean",)),
    ],
)
def test_a_folder_without_modules_averages_unless_only_the_last_token_sees_the_text(
    tmp_path: Path, config: dict[str, Any], modes: tuple[str, ...]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = EmbeddingFolder.read(tmp_path)
    assert (read.modes, read.modules, read.default_prompt) == (modes, (), "")


@pytest.mark.parametrize(
    ("modules", "settings", "reason"),
    [
        ((pooling("mean"), ("WeightedLayerPooling", {})), {}, "'WeightedLayerPooling'"),
        ((("Router", {}),), {}, "does not begin with an encoder and its pooling: Transformer, Router"),
        ((("Pooling", {"pooling_mode": "median"}),), {}, "'median'"),
        ((pooling("mean"),), {"model_type": "CrossEncoder"}, "'CrossEncoder'"),
        ((pooling("mean"),), {"default_prompt_name": "none"}, "'none'"),
    ],
)
def test_what_is_not_computed_here_is_refused_by_its_name(
    tmp_path: Path, modules: Any, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelLoadFailed, match=reason):
        EmbeddingFolder.read(save_modules(tmp_path, *modules, settings=settings))


def test_texts_of_a_chat_template_and_folders_outside_are_refused(tmp_path: Path) -> None:
    chat = {"transformer_task": "feature-extraction", "modality_config": {"text": {}, "message": {}}}
    save_modules(tmp_path, pooling("mean"), text=chat)
    with pytest.raises(ModelLoadFailed, match="chat template"):
        EmbeddingFolder.read(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps([{"path": "../secret", "type": "a.Transformer"}]))
    with pytest.raises(ModelLoadFailed, match="outside"):
        EmbeddingFolder.read(tmp_path)
