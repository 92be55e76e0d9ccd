"""A folder is validated once for each content; its verdict is kept on disk."""

import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deployments.contract.errors import ModelLoadFailed
from deployments.families.table import FAMILIES
from deployments.replica.family import model_formats
from deployments.repository.local import Repository
from deployments.repository.manifest import Manifest, SourceFile
from deployments.repository.model import Model
from deployments.validation import validator as validator_module
from deployments.validation.sandbox import Sandbox
from deployments.validation.validator import ModelValidator
from tests.deployments.repository.stores import put, write
from tests.support.tiny_models import save_text_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("whole") / "m")


class CountingSandbox(Sandbox):
    """Finds `fault` in every folder."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: str | None = None
        self.inspected = 0

    def inspect(self, folder: Path) -> str | None:
        self.inspected += 1
        return self.fault


@pytest.fixture
def sandbox() -> Iterator[CountingSandbox]:
    sandbox = CountingSandbox()
    yield sandbox
    sandbox.close()


@pytest.fixture
def validator(tmp_path: Path, sandbox: CountingSandbox) -> ModelValidator:
    return ModelValidator(tmp_path, tmp_path / "cache", sandbox)


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Model:
    folder = tmp_path / "m"
    folder.mkdir()
    for file in whole.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return Model("m", None, folder, "digest")


def test_a_folder_is_inspected_once_for_each_content(
    validator: ModelValidator, sandbox: CountingSandbox, model: Model, tmp_path: Path
) -> None:
    validator.validate(model)
    sandbox.fault = "broken now"
    assert ModelValidator(validator.root, tmp_path / "cache", sandbox).validate(model) == model.folder
    assert sandbox.inspected == 1
    (model.folder / "tokenizer.json").write_text("{}")
    for _ in range(2):
        with pytest.raises(ModelLoadFailed, match="broken now") as refused:
            validator.validate(model)
        assert str(model.folder) not in refused.value.message
    assert sandbox.inspected == 2


def test_verdicts_that_others_may_write_are_not_believed(tmp_path: Path) -> None:
    (tmp_path / "facts").mkdir()
    (tmp_path / "facts").chmod(0o777)
    with pytest.raises(PermissionError):
        ModelValidator(tmp_path, tmp_path)


def test_a_model_with_a_source_is_validated_where_it_is_staged(whole: Path, tmp_path: Path) -> None:
    manifest = Manifest(source=f"file://{whole}", family="text_generation")
    validator = ModelValidator(tmp_path, tmp_path / "cache")
    folder = validator.validate(Model("m", None, tmp_path / "m", "digest", manifest=manifest))
    assert folder.is_relative_to(tmp_path / "cache")
    assert {file.name for file in folder.iterdir()} == {file.name for file in whole.iterdir()}


def test_checksums_of_the_manifest_hold_for_files_on_disk_too(validator: ModelValidator, model: Model) -> None:
    manifest = Manifest(files={"model.safetensors": SourceFile(sha256="a" * 64)})
    with pytest.raises(ModelLoadFailed, match="another SHA-256"):
        validator.validate(replace(model, manifest=manifest))


def test_an_adapter_is_validated_with_its_base_and_joined_with_it(
    whole: Path, tmp_path: Path, sandbox: CountingSandbox
) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(whole, base)
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "base"}')
    save_file({"w": torch.zeros(1)}, adapter / "adapter_model.safetensors")
    validator = ModelValidator(tmp_path, tmp_path / "cache", sandbox)
    model = Model("lora", None, adapter, "d", "text_generation", adapter_of="base", base=Model("base", None, base, "e"))
    folder = validator.validate(model)
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert (folder / "config.json").resolve() == base / "config.json"
    assert validator.validate(model) == folder
    assert sandbox.inspected == 2
    (base / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelLoadFailed, match="model.safetensors: is truncated"):
        validator.validate(model)
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelLoadFailed, match=r"adapter_model.safetensors: is truncated"):
        validator.validate(model)


def test_an_adapter_behind_a_url_is_fetched_with_its_base_and_joined_with_it(
    whole: Path, tmp_path: Path, sandbox: CountingSandbox
) -> None:
    store = f"file://{tmp_path}/store"
    put(whole, f"{store}/base")
    save_file({"w": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    write(f"{store}/lora/adapter_config.json", b'{"peft_type": "LORA", "base_model_name_or_path": "base"}')
    write(f"{store}/lora/adapter_model.safetensors", (tmp_path / "adapter_model.safetensors").read_bytes())
    repository = Repository(store, model_formats(FAMILIES))
    validator = ModelValidator(store, tmp_path / "cache", sandbox)
    folder = validator.validate(repository.models()["lora"])
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    write(f"{store}/base/generation_config.json", b'{"temperature": 0.5}')
    changed = validator.validate(repository.models()["lora"])
    assert changed != folder
    assert (changed / "generation_config.json").read_bytes() == b'{"temperature": 0.5}'
    assert sandbox.inspected == 3, "the adapter's own files are as they were"
    write(f"{store}/base/model.safetensors", b"")
    with pytest.raises(ModelLoadFailed, match="model.safetensors: is truncated"):
        validator.validate(repository.models()["lora"])


def test_a_draft_is_validated_with_its_model(model: Model, tmp_path: Path, sandbox: CountingSandbox) -> None:
    small = tmp_path / "small"
    shutil.copytree(model.folder, small)
    validator = ModelValidator(tmp_path, tmp_path / "cache", sandbox)
    with_draft = replace(model, draft=Model("small", None, small, "d", "text_generation", root=tmp_path))
    assert validator.validate(with_draft) == model.folder
    assert sandbox.inspected == 2
    (small / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelLoadFailed, match="its draft model small: model.safetensors: is truncated"):
        validator.validate(with_draft)


def test_a_folder_that_is_away_for_a_while_is_no_fault_of_its_content(
    validator: ModelValidator, model: Model, tmp_path: Path
) -> None:
    model.folder.rename(tmp_path / "away")
    with pytest.raises(ModelLoadFailed, match="cannot be read") as failed:
        validator.validate(model)
    assert failed.value.retryable
    (tmp_path / "away").rename(model.folder)
    assert validator.validate(model) == model.folder


def test_a_file_that_cannot_be_read_for_a_moment_is_read_again(
    validator: ModelValidator, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(validator_module, "check_files", broken)
        with pytest.raises(ModelLoadFailed, match="cannot be read") as failed:
            validator.validate(model)
    assert failed.value.retryable
    assert validator.validate(model) == model.folder


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_cache_that_takes_nothing_is_named_and_may_take_more_later(
    validator: ModelValidator, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*arguments: object) -> Path:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(validator_module, "staged", full)
    manifest = Manifest(source=f"file://{whole}", family="text_generation")
    with pytest.raises(ModelLoadFailed, match="the cache cannot be written to") as failed:
        validator.validate(Model("m", None, tmp_path / "m", "digest", manifest=manifest))
    assert failed.value.retryable
    assert str(tmp_path) not in failed.value.message
