"""Models are found by what lies on disk; a folder at fault is that model's failure alone."""

import json
import time
from pathlib import Path

import pytest

from deployments.contract.errors import ModelLoadFailed, ModelNotFound, WrongFamily
from deployments.families.table import FAMILIES
from deployments.replica.family import model_formats
from deployments.repository.local import RESCAN_AFTER_S, Repository
from tests.support.clock import Clock

FORMATS = model_formats(FAMILIES)


def put(folder: Path, architecture: str = "LlamaForCausalLM", **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture], **config}))
    (folder / "model.safetensors").write_bytes(b"w" * 100)
    return folder


def repository(root: Path, clock: Clock | None = None) -> Repository:
    return Repository(root, FORMATS, clock or Clock())


@pytest.mark.parametrize(
    ("architecture", "family"),
    [
        ("LlamaForCausalLM", "text_generation"),
        ("GPT2LMHeadModel", "text_generation"),
        ("ViTForImageClassification", "image_classification"),
        ("DeiTForImageClassificationWithTeacher", "image_classification"),
    ],
)
def test_the_architecture_tells_the_family(tmp_path: Path, architecture: str, family: str) -> None:
    put(tmp_path / "m", architecture)
    assert repository(tmp_path).find("m", family).family == family


def test_the_weight_files_tell_the_size_unless_the_manifest_does(tmp_path: Path) -> None:
    put(tmp_path / "plain")
    (put(tmp_path / "stated") / "model.yaml").write_text("memory_mb: 2\npinned: true\n")
    models = repository(tmp_path).models()
    assert models["plain"].declared_bytes == 100
    assert models["stated"].declared_bytes == 2 * 2**20
    assert models["stated"].manifest.pinned


def test_the_manifest_overrules_the_architecture(tmp_path: Path) -> None:
    (put(tmp_path / "m", "SomethingElse") / "model.yaml").write_text("family: text_generation\n")
    assert repository(tmp_path).find("m", "text_generation").family == "text_generation"


def test_an_unknown_model_is_not_found_and_a_near_miss_named(tmp_path: Path) -> None:
    put(tmp_path / "gpt-nano")
    with pytest.raises(ModelNotFound, match="no model 'gpt-nanno'; did you mean 'gpt-nano'"):
        repository(tmp_path).find("gpt-nanno", "text_generation")


def test_a_folder_whose_name_could_be_that_of_a_version_is_no_model(tmp_path: Path) -> None:
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
        repository(tmp_path / "models").find(model_id, "text_generation")
    assert len(refused.value.message) < 200


def test_a_model_of_another_family_is_told_so(tmp_path: Path) -> None:
    put(tmp_path / "m")
    with pytest.raises(WrongFamily, match="m serves text_generation, not image_classification"):
        repository(tmp_path).find("m", "image_classification")


def test_ids_may_hold_slashes(tmp_path: Path) -> None:
    put(tmp_path / "org" / "model")
    assert repository(tmp_path).find("org/model", "text_generation").model_id == "org/model"


def test_the_highest_version_without_a_problem_serves_and_each_can_be_asked_for(tmp_path: Path) -> None:
    for version in ("2", "10"):
        put(tmp_path / "m" / version)
    put(tmp_path / "m" / "11", "Unheard")
    models = repository(tmp_path)
    assert models.find("m", "text_generation").version == 10
    assert models.find("m@2", "text_generation").version == 2
    with pytest.raises(ModelLoadFailed, match=r"m@11: no family serves architecture 'Unheard'"):
        models.find("m@11", "text_generation")


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json is not an object"),
        (lambda folder: (folder / "config.json").write_text('{"auto_map": {}}'), "config.json names code of its own"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no \\*.safetensors weights"),
        (lambda folder: (folder / "modeling.py").write_text("1/0"), "holds code"),
        (
            lambda folder: (folder / "model.yaml").write_text("pined: true"),
            "model.yaml: unknown key 'pined'; did you mean 'pinned'",
        ),
        (lambda folder: (folder / "model.yaml").write_text("{"), "model.yaml is not YAML"),
        (lambda folder: (folder / "weights").symlink_to("/etc/passwd"), "a symbolic link leaves the repository"),
    ],
)
def test_a_folder_at_fault_fails_its_own_model_only(tmp_path: Path, break_it: object, said: str) -> None:
    put(tmp_path / "good")
    break_it(put(tmp_path / "bad"))  # type: ignore[operator]
    models = repository(tmp_path)
    with pytest.raises(ModelLoadFailed, match=f"bad: {said}") as failed:
        models.find("bad", "text_generation")
    assert str(tmp_path) not in failed.value.message
    assert models.find("good", "text_generation").problem is None


def test_changes_on_disk_are_seen_when_the_table_is_old(tmp_path: Path) -> None:
    clock = Clock()
    models = repository(tmp_path, clock)
    assert not models.models()
    folder = put(tmp_path / "m")
    clock.now += RESCAN_AFTER_S
    before = models.find("m", "text_generation").digest
    (folder / "model.safetensors").write_bytes(b"w" * 101)
    clock.now += RESCAN_AFTER_S
    assert models.find("m", "text_generation").digest != before


def test_hundreds_of_folders_are_scanned_in_little_time_and_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(300):
        put(tmp_path / f"m{number}")
    models = repository(tmp_path)
    before = models.scan()
    assert len(before) == 300
    monkeypatch.setattr(Repository, "_read", None)
    started = time.process_time()
    assert all(now is then for now, then in zip(models.scan(), before, strict=True))
    assert time.process_time() - started < 0.5


def test_a_root_that_cannot_be_read_is_no_empty_repository(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        repository(tmp_path / "away").scan()
