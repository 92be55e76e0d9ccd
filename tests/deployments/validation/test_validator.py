"""What a folder would have the libraries do is tried in a process of its own, once for each content."""

import json
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers

from deployments.contract.errors import ModelLoadFailed
from deployments.repository.manifest import Manifest, SourceFile
from deployments.repository.model import Model
from deployments.validation.sandbox import Sandbox
from deployments.validation.validator import ModelValidator
from tests.support.project import PROJECT
from tests.support.tiny_models import save_text_model

REFUSED_WITHIN_S = 5.0


def computed() -> float:
    """CPU seconds of this process and of those it has ended: the clock on the wall, were nobody else on the machine."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("whole") / "m")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """Warm, as a replica's is."""
    sandbox = Sandbox()
    sandbox.inspect(PROJECT / "models" / "gpt-nano")
    yield sandbox
    sandbox.close()


@pytest.fixture
def validator(tmp_path: Path, sandbox: Sandbox) -> ModelValidator:
    return ModelValidator(tmp_path, tmp_path / "cache", sandbox)


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Model:
    folder = tmp_path / "m"
    folder.mkdir()
    for file in whole.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return Model("m", None, folder, "digest")


def template(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def named_template(text: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        place = folder / "tokenizer_config.json"
        listed = [{"name": "default", "template": "fine"}, {"name": "rag", "template": text}]
        place.write_text(json.dumps(json.loads(place.read_text()) | {"chat_template": listed}))

    return change


def pattern(regex: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(regex), "isolated"), pre_tokenizers.ByteLevel(use_regex=False)]
        )
        tokenizer.save(str(folder / "tokenizer.json"))

    return change


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a constant": (template("{{ 'a' * 24000000000 }}"), "chat_template.jinja takes too much"),
    "doubling": (template("{% set n = namespace(s='ab') %}" + "{% set n.s = n.s * 99 %}" * 9), "takes too much"),
    "some megabytes": (named_template("{{ 'a' * 9999999 }}"), "in tokenizer_config.json multiplies its text"),
    "loops": (template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"), "too long"),
    "a regex without end": (pattern(r"^(([a-z])+.)+[A-Z]([a-z])+$"), "tokenizer.json"),
    "a regex nearly without end": (pattern(r"(a+)+$"), "tokenizer.json"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json cannot be used"),
}


@pytest.mark.parametrize(("break_it", "said"), HOSTILE.values(), ids=HOSTILE)
def test_what_would_hurt_is_refused_in_time_and_the_next_folder_is_not(
    validator: ModelValidator, model: Model, break_it: Callable[[Path], object], said: str
) -> None:
    break_it(model.folder)
    started = computed()
    with pytest.raises(ModelLoadFailed, match=said) as refused:
        validator.validate(model)
    assert computed() - started < REFUSED_WITHIN_S
    assert str(model.folder) not in refused.value.message
    good = save_text_model(model.folder.parent / "good")
    assert validator.validate(Model("good", None, good, "digest")) == good


@pytest.mark.parametrize(
    "text",
    [
        "{{ raise_exception('no system') }}",
        "{% for m in messages %}{{ m.content }}{% generation %}{% endgeneration %}{% endfor %}",
        "{{ messages[0]['content'].__class__.__mro__ }}",
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}{{ eos_token }}{% endfor %}",
    ],
)
def test_templates_that_only_refuse_these_messages_pass(validator: ModelValidator, model: Model, text: str) -> None:
    template(text)(model.folder)
    validator.validate(model)


def test_a_folder_is_inspected_once_for_each_content(
    validator: ModelValidator, sandbox: Sandbox, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspected: list[Path] = []

    def inspect(folder: Path) -> str | None:
        inspected.append(folder)
        return None if len(inspected) == 1 else "broken now"

    monkeypatch.setattr(sandbox, "inspect", inspect)
    validator.validate(model)
    assert ModelValidator(validator.root, tmp_path / "cache", sandbox).validate(model) == model.folder
    assert len(inspected) == 1
    (model.folder / "tokenizer.json").write_text("{}")
    for _ in range(2):
        with pytest.raises(ModelLoadFailed, match="broken now"):
            validator.validate(model)
    assert len(inspected) == 2


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
