"""An adapter is served with its base, joined in a folder of links, with only what says how to merge."""

import json
from pathlib import Path

import pytest

from deployments.repository.adapters import join, merging_config
from deployments.repository.local import Repository
from deployments.repository.model import find
from tests.deployments.repository.test_local import put, repository

MERGING: dict[str, object] = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
LORA = MERGING | {"base_model_name_or_path": "/x", "megatron_core": "os"}


def folder(place: Path, *names: str) -> Path:
    place.mkdir()
    for name in names:
        (place / name).write_text(place.name)
    return place


def test_only_what_says_how_to_merge_is_kept() -> None:
    assert merging_config(LORA) == MERGING


def test_the_joined_folder_has_the_bases_files_and_the_adapters_tokenizer(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", "config.json", "model.safetensors", "tokenizer.json", "vocab.json")
    adapter = folder(tmp_path / "adapter", "adapter_model.safetensors", "tokenizer.json", "README.md", "cat.png")
    (adapter / "adapter_config.json").write_text(json.dumps(LORA))
    joined = join(adapter, base, tmp_path / "joined")
    held = {str(file.relative_to(joined)): file.read_text() for file in joined.rglob("*") if file.is_file()}
    merging = json.dumps(merging_config(LORA) | {"inference_mode": True}, sort_keys=True)
    assert held == {
        "config.json": "base",
        "model.safetensors": "base",
        "tokenizer.json": "adapter",
        "cat.png": "adapter",
        "adapter/adapter_config.json": merging,
        "adapter/adapter_model.safetensors": "adapter",
        "adapter.safetensors": "adapter",
        "adapter.safetensors.json": merging,
    }
    assert join(adapter, base, joined) == joined


def test_an_adapter_without_a_vocabulary_has_its_bases_tokenizer(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", "config.json", "tokenizer.json", "tokenizer_config.json")
    adapter = folder(tmp_path / "adapter", "adapter_model.safetensors", "tokenizer_config.json")
    (adapter / "adapter_config.json").write_text(json.dumps(LORA))
    joined = join(adapter, base, tmp_path / "joined")
    assert (joined / "tokenizer_config.json").read_text() == "base"


def put_adapter(folder: Path, **config: object) -> Path:
    folder.mkdir()
    lora = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 8}
    (folder / "adapter_config.json").write_text(json.dumps(lora | config))
    (folder / "adapter_model.safetensors").write_bytes(b"w" * 10)
    return folder


def test_an_adapter_is_served_as_long_as_its_base_is(tmp_path: Path) -> None:
    put_adapter(tmp_path / "lora")
    models = repository(tmp_path)
    missing = find_problem(models, "lora")
    assert missing.startswith("a LORA adapter of 'org/base': merge the two")
    assert missing.endswith("or put its base into the repository")
    base = put(tmp_path / "base", max_position_embeddings=77)
    served = find(models.models(), "lora", "text_generation")
    assert served.base
    assert (served.base.folder, served.weight_bytes, served.context) == (base, 110, 77)
    before, digest = served, served.digest
    assert models.models()["lora"] == before
    (base / "model.safetensors").write_bytes(b"v" * 101)
    assert models.models()["lora"].digest != digest
    (base / "model.safetensors").unlink()
    assert find_problem(models, "lora") == missing


def find_problem(models: Repository, name: str) -> str:
    return models.models()[name].problem or ""


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "only LoRA adapters are served"),
        ({"target_modules": ".*(a|a)*b"}, "its modules are named by patterns"),
        ({"rank_pattern": {"^x$": 4}}, "its modules are named by patterns"),
        ({"base_model_name_or_path": None}, "merge_and_unload) and save the result"),
    ],
)
def test_an_adapter_that_cannot_be_merged_says_why(tmp_path: Path, config: dict[str, object], why: str) -> None:
    put(tmp_path / "base")
    put_adapter(tmp_path / "lora", **config)
    assert find_problem(repository(tmp_path), "lora").endswith(why)
