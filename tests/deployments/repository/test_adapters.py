"""Models that go with others: an adapter with its base, and only what says how to merge; a model with its draft."""

import json
import pickle
from pathlib import Path

import pytest

from deployments.contract.errors import ModelLoadFailed
from deployments.repository.adapters import join, merging_config
from deployments.repository.local import Repository
from deployments.repository.model import Model, find
from tests.deployments.repository.test_local import FORMATS, put, repository

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


def put_target(root: Path, text: str = "draft: org/small\n") -> Path:
    folder = put(root / "large")
    (folder / "model.yaml").write_text(text)
    return folder


def large(models: Repository) -> Model:
    return find(models.models(), "large", "text_generation")


def test_the_draft_goes_with_its_model_and_counts_as_its_content_and_memory(tmp_path: Path) -> None:
    put_target(tmp_path)
    small = put(tmp_path / "org" / "small")
    models = repository(tmp_path)
    first = large(models)
    assert first.draft is not None
    assert (first.draft.folder, first.declared_bytes) == (small, 200)
    assert large(models) == first, "read once"
    assert pickle.loads(pickle.dumps(first)) == first
    (small / "model.safetensors").write_bytes(b"v" * 150)
    second = large(models)
    assert second.key != first.key
    assert second.declared_bytes == 250
    (tmp_path / "large" / "model.yaml").write_text("draft: org/small\nmemory_mb: 2\n")
    assert large(models).declared_bytes == 150 + 2 * 2**20


def test_a_version_of_a_model_may_be_the_draft(tmp_path: Path) -> None:
    put_target(tmp_path, "draft: org/small@2\n")
    for version in (2, 3):
        put(tmp_path / "org" / "small" / str(version))
    draft = large(repository(tmp_path)).draft
    assert draft is not None
    assert draft.version == 2


def test_a_draft_that_cannot_be_used_is_the_models_problem_until_it_can(tmp_path: Path) -> None:
    put_target(tmp_path)
    models = repository(tmp_path)
    put(tmp_path / "org" / "smal")
    with pytest.raises(ModelLoadFailed, match="draft: no model 'org/small'; did you mean 'org/smal'?"):
        large(models)
    small = put(tmp_path / "org" / "small")
    assert large(models).draft is not None
    (small / "tokenizer.json").unlink()
    with pytest.raises(ModelLoadFailed, match="draft: org/small cannot be served: .*tokenizer"):
        large(models)


@pytest.mark.parametrize(
    ("manifest", "fault"),
    [
        ("family: image_classification\n", "serves image_classification, not text_generation"),
        ("source: s3://bucket/m\nfamily: text_generation\n", "have to be folders"),
    ],
)
def test_a_draft_has_the_models_family_and_a_folder(tmp_path: Path, manifest: str, fault: str) -> None:
    put_target(tmp_path)
    small = put(tmp_path / "org" / "small")
    (small / "model.yaml").write_text(manifest)
    if "source" in manifest:
        for file in small.iterdir():
            if file.name != "model.yaml":
                file.unlink()
    with pytest.raises(ModelLoadFailed, match=fault):
        large(Repository(tmp_path, FORMATS, sources=["s3://bucket/"]))
