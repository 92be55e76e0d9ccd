"""Models are found by their folders; a folder at fault is the failure of its model alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.contract.errors import ModelLoadFailed, ModelNotFound
from deployments.families.table import FAMILIES
from deployments.replica.family import model_formats
from deployments.repository import source_poller
from deployments.repository.local import Repository
from deployments.repository.model import find
from tests.deployments.repository import stores
from tests.support.until import wait_until

FORMATS = model_formats(FAMILIES)


def put(folder: Path, architecture: str = "LlamaForCausalLM", **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture], **config}))
    (folder / "model.safetensors").write_bytes(b"w" * 100)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "preprocessor_config.json").write_text("{}")
    return folder


def repository(root: Path) -> Repository:
    return Repository(root, FORMATS)


@pytest.mark.parametrize(
    ("architecture", "family"),
    [
        ("LlamaForCausalLM", "text_generation"),
        ("GPT2LMHeadModel", "text_generation"),
        ("ViTForImageClassification", "image_classification"),
        ("DeiTForImageClassificationWithTeacher", "image_classification"),
    ],
)
def test_the_architecture_in_config_json_decides_the_family(tmp_path: Path, architecture: str, family: str) -> None:
    put(tmp_path / "m", architecture)
    assert find(repository(tmp_path).models(), "m", family).family == family


def test_the_context_is_that_of_config_json_where_the_family_counts_tokens(tmp_path: Path) -> None:
    put(tmp_path / "text", max_position_embeddings=512)
    put(tmp_path / "silent")
    put(tmp_path / "image", "ViTForImageClassification", max_position_embeddings=512)
    models = repository(tmp_path).models()
    assert [models[name].context for name in ("text", "silent", "image")] == [512, None, None]


def test_the_size_is_that_of_the_weight_files_unless_the_manifest_declares_it(tmp_path: Path) -> None:
    put(tmp_path / "plain")
    (put(tmp_path / "stated") / "model.yaml").write_text("memory_mb: 2\npinned: true\n")
    models = repository(tmp_path).models()
    assert models["plain"].declared_bytes == 100
    assert models["stated"].declared_bytes == 2 * 2**20
    assert models["stated"].manifest.pinned


def test_the_family_of_the_manifest_comes_before_the_architecture(tmp_path: Path) -> None:
    (put(tmp_path / "m", "SomethingElse") / "model.yaml").write_text("family: text_generation\n")
    assert find(repository(tmp_path).models(), "m", "text_generation").family == "text_generation"


def test_a_folder_with_an_at_sign_in_its_name_is_no_model(tmp_path: Path) -> None:
    put(tmp_path / "m" / "2")
    put(tmp_path / "m@2")
    put(tmp_path / "m@home")
    assert {name: model.folder for name, model in repository(tmp_path).models().items()} == {
        "m": tmp_path / "m" / "2",
        "m@2": tmp_path / "m" / "2",
    }


@pytest.mark.parametrize("model_id", ["../outside", "m/../m", "/etc", "m\0", "ｍ", "", ".", "m/", "x" * 10**6])
def test_no_path_is_made_of_a_model_id(tmp_path: Path, model_id: str) -> None:
    put(tmp_path / "outside")
    put(tmp_path / "models" / "m")
    with pytest.raises(ModelNotFound) as refused:
        find(repository(tmp_path / "models").models(), model_id, "text_generation")
    assert len(refused.value.message) < 200


def test_a_model_id_may_hold_slashes(tmp_path: Path) -> None:
    put(tmp_path / "org" / "model")
    assert find(repository(tmp_path).models(), "org/model", "text_generation").model_id == "org/model"


def test_the_highest_version_without_a_problem_serves_and_each_can_be_requested(tmp_path: Path) -> None:
    for version in ("2", "10"):
        put(tmp_path / "m" / version)
    put(tmp_path / "m" / "11", "Unheard")
    models = repository(tmp_path)
    assert find(models.models(), "m", "text_generation").version == 10
    assert find(models.models(), "m@2", "text_generation").version == 2
    with pytest.raises(ModelLoadFailed, match=r"m@11: no family serves architecture 'Unheard'"):
        find(models.models(), "m@11", "text_generation")


@pytest.mark.parametrize(
    ("break_it", "fault"),
    [
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json is not an object"),
        (lambda folder: (folder / "config.json").write_text('{"trust_remote_code": 1}'), "config.json names code"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "there are no tokenizer files: add tokenizer.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no \\*.safetensors weights"),
        (
            lambda folder: (folder / "model.yaml").write_text("pined: true"),
            "model.yaml: unknown key 'pined'; did you mean 'pinned'",
        ),
        (lambda folder: (folder / "model.yaml").write_text("{"), "model.yaml is not YAML"),
        (lambda folder: (folder / "weights").symlink_to("/etc/passwd"), "a symbolic link leaves the repository"),
    ],
)
def test_a_folder_at_fault_fails_its_own_model_only(
    tmp_path: Path, break_it: Callable[[Path], object], fault: str
) -> None:
    put(tmp_path / "good")
    break_it(put(tmp_path / "bad"))
    models = repository(tmp_path)
    with pytest.raises(ModelLoadFailed, match=f"bad: {fault}") as failed:
        find(models.models(), "bad", "text_generation")
    assert str(tmp_path) not in failed.value.message
    assert find(models.models(), "good", "text_generation").problem is None


def test_every_folder_is_listed_but_those_that_lead_to_a_model_or_lie_in_one(tmp_path: Path) -> None:
    put(tmp_path / "org" / "good")
    (tmp_path / "org" / "README.md").write_text("of all models")
    put(tmp_path / "inner" / "1")
    put(tmp_path / "org" / "sentences", "BertModel", model_type="bert")
    (tmp_path / "org" / "sentences" / "modules.json").write_text("[]")
    put(tmp_path / "org" / "sentences" / "2_Dense")
    for name in ("good/onnx", "bad/1", "empty", "pipeline/unet"):
        (tmp_path / "org" / name).mkdir(parents=True)
    (tmp_path / "org" / "good" / "onnx" / "model.onnx").write_bytes(b"")
    (tmp_path / "org" / "bad" / "1" / "tiny.gguf").write_bytes(b"GGUF")
    (tmp_path / "org" / "pipeline" / "model_index.json").write_text("{}")
    (tmp_path / "org" / "pipeline" / "unet" / "config.json").write_text("{}")
    problems = {model.name: model.problem or "" for model in repository(tmp_path).scan()}
    assert {name: problem[:29] for name, problem in problems.items()} == {
        "org/good": "",
        "inner@1": "",
        "org/bad@1": "its weights are GGUF, which l",
        "org/empty": "there is no config.json: a mo",
        "org/pipeline": "a diffusers pipeline, which n",
        "org/sentences": "",
    }


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_in_the_place_of_any_file_says_so(tmp_path: Path, file: str) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 12345\n"
    (put(tmp_path / "m") / file).write_text(pointer)
    problem = repository(tmp_path).models()["m"].problem
    assert problem == f"{file} is a Git LFS pointer, not the file: run `git lfs pull` in the folder"


def test_a_link_out_of_the_repository_leads_where_the_configuration_allows_it(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    put(elsewhere / "m")
    root.mkdir()
    (root / "linked").symlink_to(elsewhere / "m")
    refused = repository(root).models()["linked"]
    assert refused.problem == "a symbolic link leaves the repository, and link_targets does not allow it"
    model = Repository(root, FORMATS, link_targets=[elsewhere]).models()["linked"]
    assert (model.problem, model.family, model.declared_bytes) == (None, "text_generation", 100)


def hub_cache(root: Path, name: str, commit: str, ref: str | None = None) -> Path:
    """As huggingface_hub writes it."""
    snapshot = put(root / name / "snapshots" / commit)
    (root / name / "blobs").mkdir(exist_ok=True)
    for file in snapshot.iterdir():
        blob = root / name / "blobs" / f"{commit}-{file.name}"
        file.rename(blob)
        file.symlink_to(Path("../../blobs") / blob.name)
    if ref is not None:
        (root / name / "refs").mkdir()
        (root / name / "refs" / "main").write_text(ref)
    return snapshot


def test_a_cache_of_the_hub_is_read_as_models_by_their_names(tmp_path: Path) -> None:
    hub_cache(tmp_path, "models--org--new", "abc")
    hub_cache(tmp_path, "models--org--new", "def", ref="def")
    hub_cache(tmp_path, "models--gpt2", "123")
    hub_cache(tmp_path, "datasets--org--data", "123", ref="123")
    (tmp_path / "models--org--begun" / "snapshots").mkdir(parents=True)
    (tmp_path / ".locks").mkdir()
    models = {model.name: model for model in repository(tmp_path).scan()}
    assert models.keys() == {"org/new", "gpt2", "org/begun"}
    assert models["org/new"].folder.name == "def"
    assert (models["gpt2"].problem, models["gpt2"].declared_bytes) == (None, 100)
    assert (models["org/begun"].problem or "").startswith("there is no config.json")


def test_only_the_weights_that_are_loaded_count(tmp_path: Path) -> None:
    folder = put(tmp_path / "m")
    for name in ("consolidated.safetensors", "model.fp16.safetensors", "pytorch_model.bin"):
        (folder / name).write_bytes(b"w" * 100)
    assert repository(tmp_path).models()["m"].declared_bytes == 100


def test_changes_on_disk_are_seen_by_the_next_scan(tmp_path: Path) -> None:
    models = repository(tmp_path)
    assert not models.models()
    folder = put(tmp_path / "m")
    before = find(models.models(), "m", "text_generation").digest
    (folder / "model.safetensors").write_bytes(b"w" * 101)
    assert find(models.models(), "m", "text_generation").digest != before


def test_a_folder_whose_files_have_not_changed_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(300):
        put(tmp_path / f"m{number}")
    models = repository(tmp_path)
    before = models.scan()
    assert len(before) == 300
    monkeypatch.setattr(Repository, "_read", None)
    assert all(now is then for now, then in zip(models.scan(), before, strict=True))


def test_a_root_that_cannot_be_read_is_an_error_and_no_empty_repository(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        repository(tmp_path / "away").scan()


def test_a_model_with_a_source_has_the_content_that_the_source_has(
    tmp_path: Path, memory_store: str, text_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"{memory_store}/m"
    stores.put(text_model, source)
    stores.refer(tmp_path / "m", source)
    monkeypatch.setattr(source_poller, "POLL_EVERY_S", 0)
    models = Repository(tmp_path, FORMATS, sources=["memory://"])
    first = find(models.models(), "m", "text_generation")
    assert first.weight_bytes == (text_model / "model.safetensors").stat().st_size
    stores.write(f"{source}/generation_config.json", b'{"eos_token_id": 3}')
    wait_until(lambda: find(models.models(), "m", "text_generation").digest != first.digest, every_s=0.001)


def test_a_source_that_the_configuration_does_not_allow_is_the_models_problem(tmp_path: Path) -> None:
    stores.refer(tmp_path / "m", "memory://store/m")
    with pytest.raises(ModelLoadFailed, match="m: model.yaml: its source is none that the configuration allows"):
        find(Repository(tmp_path, FORMATS, sources=["s3://"]).models(), "m", "text_generation")


def test_a_repository_behind_a_url_is_scanned_like_one_on_disk(memory_store: str, text_model: Path) -> None:
    stores.put(text_model, f"{memory_store}/m")
    models = Repository(memory_store, FORMATS)
    (first,) = models.scan()
    assert find(models.models(), "m", "text_generation").manifest.source == f"{memory_store}/m"
    (second,) = models.scan()
    assert second is first
