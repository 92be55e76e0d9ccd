"""A repository behind a URL: its models are found without fetching weights, and read again only when they change."""

from pathlib import Path

import pytest

from deployments.families.table import FAMILIES
from deployments.replica.family import model_formats
from deployments.repository.local import Repository
from deployments.repository.model import Model, by_name, find
from deployments.repository.remote import scan_remote
from tests.deployments.repository.stores import put, write
from tests.support.tiny_models import save_image_model

FORMATS = model_formats(FAMILIES)


def scan(store: str, known: dict[str, Model] | None = None) -> dict[str, Model]:
    return by_name(scan_remote(store, known or {}, FORMATS))


def test_models_are_found_with_their_versions_families_sizes_and_manifests(
    store: str, text_model: Path, tmp_path: Path
) -> None:
    put(text_model, f"{store}/org/text/1")
    put(text_model, f"{store}/org/text/2")
    write(f"{store}/org/text/2/model.yaml", b"pinned: true")
    put(save_image_model(tmp_path / "image"), f"{store}/image")
    models = scan(store)
    assert models.keys() == {"org/text", "org/text@1", "org/text@2", "image"}
    text = find(models, "org/text", "text_generation")
    assert (text.version, text.pinned) == (2, True)
    assert text.manifest.source == f"{store}/org/text/2"
    assert text.declared_bytes == (text_model / "model.safetensors").stat().st_size
    assert models["image"].family == "image_classification"


def test_the_folders_of_a_sentence_transformers_models_modules_are_its_own(store: str, text_model: Path) -> None:
    put(text_model, f"{store}/sentences")
    put(text_model, f"{store}/sentences/2_Dense")
    write(f"{store}/sentences/modules.json", b"[]")
    models = scan(store)
    assert models.keys() == {"sentences"}
    assert models["sentences"].declared_bytes == 2 * (text_model / "model.safetensors").stat().st_size


def test_only_what_has_changed_is_read_again(store: str, text_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(text_model, f"{store}/a")
    put(text_model, f"{store}/b")
    before = scan(store)
    with monkeypatch.context() as patched:
        patched.setattr("deployments.repository.remote.read_remote", None)
        assert scan(store, before) == before
    write(f"{store}/a/generation_config.json", b"{}")
    after = scan(store, before)
    assert after["a"].digest != before["a"].digest
    assert after["b"] is before["b"]


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("adapter_config.json", b'{"base_model_name_or_path": "org/base"}', "a peft adapter of 'org/base'"),
        ("adapter_config.json", b'{"peft_type": "LORA"}', "a LORA adapter of a model without a name"),
        ("config.json", b"[]", "config.json is not an object"),
        ("model.yaml", b"source: s3://b/m\nfamily: text_generation", "model.yaml: a model of a remote repository"),
    ],
)
def test_a_folder_at_fault_is_a_model_with_a_problem(
    memory_store: str, text_model: Path, file: str, content: bytes, problem: str
) -> None:
    put(text_model, f"{memory_store}/good")
    put(text_model, f"{memory_store}/bad")
    write(f"{memory_store}/bad/{file}", content)
    models = scan(memory_store)
    assert (models["bad"].problem or "").startswith(problem)
    assert models["good"].problem is None


def test_an_adapter_behind_a_url_is_served_as_long_as_its_base_is(memory_store: str, text_model: Path) -> None:
    repository = Repository(memory_store, FORMATS)
    write(f"{memory_store}/lora/adapter_config.json", b'{"peft_type": "LORA", "base_model_name_or_path": "me/base"}')
    write(f"{memory_store}/lora/adapter_model.safetensors", b"w" * 10)
    missing = repository.models()["lora"].problem or ""
    assert missing.endswith("or put its base into the repository")
    put(text_model, f"{memory_store}/base")
    before = find(repository.models(), "lora", "text_generation")
    assert before.base
    assert before.weight_bytes == before.base.weight_bytes + 10
    assert repository.models()["lora"] == before
    write(f"{memory_store}/base/generation_config.json", b'{"max_new_tokens": 7}')
    after = repository.models()["lora"]
    assert (after.own_digest, after.weight_bytes) == (before.own_digest, before.weight_bytes)
    assert after.digest != before.digest
    assert after.generation != before.generation
    write(f"{memory_store}/base/config.json", b"[]")
    assert repository.models()["lora"].problem == missing


def test_a_folder_without_safetensors_is_a_model_with_a_problem(memory_store: str) -> None:
    config = b'{"architectures": ["LlamaForCausalLM"]}'
    write(f"{memory_store}/none/config.json", config)
    write(f"{memory_store}/pickles/config.json", config)
    write(f"{memory_store}/pickles/pytorch_model.bin", b"")
    write(f"{memory_store}/org/gguf/tiny.gguf", b"")
    write(f"{memory_store}/README.md", b"")
    models = scan(memory_store)
    assert models["none"].problem == "no *.safetensors weights"
    assert (models["pickles"].problem or "").startswith("its weights are pickles (pytorch_model.bin)")
    assert (models["org/gguf"].problem or "").startswith("its weights are GGUF")
    assert models.keys() == {"none", "pickles", "org/gguf"}


def test_code_in_a_folder_is_left_where_it_is(memory_store: str, text_model: Path) -> None:
    put(text_model, f"{memory_store}/m")
    write(f"{memory_store}/m/modeling.py", b"raise SystemExit")
    assert scan(memory_store)["m"].problem is None


def test_a_store_that_cannot_be_listed_is_no_empty_repository() -> None:
    with pytest.raises(OSError, match="gopher|reached|driver"):
        scan("gopher://x/y")
