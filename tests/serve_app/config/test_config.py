"""The configuration is read strictly; a mistake is reported with its place and the nearest key."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from deployments.families.image_classification.family import ImageClassificationOptions
from deployments.families.text_generation.family import TextGenerationOptions
from serve_app.config import config
from serve_app.config.config import PROJECT, IngressSettings, RuntimeConfig, read_config


def config_of(tmp_path: Path, text: str) -> RuntimeConfig:
    file = tmp_path / "runtime.yaml"
    file.write_text(text)
    return read_config(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modles: x", "runtime.yaml: unknown key 'modles'; did you mean 'models'?"),
        (
            "families: {text_generation: {required_mem: 5}}",
            "families.text_generation: .*did you mean 'required_mem_mb'",
        ),
        ("families: {text_generation: {max_cpu_share: 1.5}}", "families.text_generation.max_cpu_share: .*less than"),
        ("families: {text_generation: {max_cpu_share: 0}}", "families.text_generation.max_cpu_share: .*greater than 0"),
        ("families: {text_generation: {num_gpus: -1}}", "families.text_generation.num_gpus"),
        ("ingress: {autoscaling: {min_replicas: 5}}", "ingress.autoscaling: min_replicas 5 is above max_replicas 2"),
        ("models: [", "runtime.yaml: "),
        ("- models", "runtime.yaml: "),
        ("applications: []", "runtime.yaml: a file for `serve deploy`; what is wanted here is what its `args` hold"),
    ],
)
def test_a_mistake_is_reported_with_its_place_and_the_nearest_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(tmp_path, text)


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    assert config_of(tmp_path, "") == RuntimeConfig()


def test_the_models_folder_is_looked_up_here_and_beside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert RuntimeConfig().repository() == PROJECT / "models"
    (tmp_path / "models").mkdir()
    assert RuntimeConfig().repository() == tmp_path / "models"
    with pytest.raises(ValueError, match="models: there is no folder 'elsewhere'"):
        RuntimeConfig(models="elsewhere").repository()


def test_the_models_may_lie_behind_a_url(tmp_path: Path) -> None:
    assert config_of(tmp_path, "models: s3://bucket/models").repository() == "s3://bucket/models"
    with pytest.raises(ValueError, match="sources.0: "):
        config_of(tmp_path, "sources: [/etc]")


def test_a_family_has_its_own_options_and_no_others(tmp_path: Path) -> None:
    config = config_of(tmp_path, "families: {image_classification: {max_megapixels: 3}}")
    assert config.settings("image_classification") == ImageClassificationOptions(max_megapixels=3)
    assert config.settings("text_generation") == TextGenerationOptions()
    assert config.model_dump()["families"]["image_classification"]["max_megapixels"] == 3


def test_every_mistake_in_the_families_is_reported_on_its_line(tmp_path: Path) -> None:
    text = "families: {text_generation: {max_megapixels: 3}, image_classification: {max_megapixel: 3, num_cpus: -1}}"
    with pytest.raises(ValueError, match="families") as mistaken:
        config_of(tmp_path, text)
    first, second = str(mistaken.value).splitlines()
    assert first.startswith("runtime.yaml: families.text_generation: unknown key 'max_megapixels'")
    assert second.endswith("unknown key 'max_megapixel'; did you mean 'max_megapixels'?")


def test_a_configuration_is_not_changed_in_place() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RuntimeConfig().models = Path("elsewhere")


def test_traces_without_the_exporter_are_a_mistake_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert IngressSettings(traces=True).traces
    monkeypatch.setattr(config, "EXPORTER", "no-such-package")
    with pytest.raises(ValidationError, match=r"traces need no-such-package: pip install 'model-runtime\[tracing\]'"):
        IngressSettings(traces=True)
