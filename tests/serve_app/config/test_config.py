"""The configuration is read strictly; a mistake is told with its place and the nearest key."""

from pathlib import Path

import pytest
import ray
from pydantic import ValidationError
from ray.serve import Application

from deployments.families.table import FAMILIES
from serve_app.access.api_keys import AccessSettings, KeySettings
from serve_app.app import SHARE_OF_A_GPU, build
from serve_app.config.config import PROJECT, RuntimeConfig, read_config


def config_of(tmp_path: Path, text: str) -> RuntimeConfig:
    file = tmp_path / "runtime.yaml"
    file.write_text(text)
    return read_config(file)


@pytest.mark.parametrize(
    ("text", "said"),
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
    ],
)
def test_a_mistake_is_told_with_its_place_and_the_nearest_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
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


def test_a_family_that_is_not_in_the_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown family 'text_generatoin'; did you mean 'text_generation'"):
        build(RuntimeConfig.model_validate({"families": {"text_generatoin": {}}}))


def test_a_configuration_is_not_changed_in_place() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RuntimeConfig().models = Path("elsewhere")


def gpu_shares(application: Application) -> dict[str, float]:
    """`num_gpus` of each family's deployment, read off the built application."""
    families = application._bound_deployment.init_args[2]
    options = {name: family._bound_deployment.ray_actor_options for name, family in families.items()}
    return {name: option["num_gpus"] for name, option in options.items()}


@pytest.mark.parametrize(("gpus", "share"), [(0, 0), (1, SHARE_OF_A_GPU)])
def test_a_family_takes_a_share_of_a_gpu_only_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, gpus: int, share: float
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": float(gpus)})
    assert gpu_shares(build(RuntimeConfig())) == {family.name: share for family in FAMILIES}


def test_a_share_that_is_stated_is_kept() -> None:
    config = RuntimeConfig.model_validate({"families": {"text_generation": {"num_gpus": 0.5}}})
    assert gpu_shares(build(config))["text_generation"] == 0.5


@pytest.mark.parametrize(("profile", "lines"), [(False, 1), (True, 0)])
def test_without_the_fast_profile_one_line_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], profile: bool, lines: int
) -> None:
    monkeypatch.setattr("serve_app.app.RAY_SERVE_ENABLE_HA_PROXY", profile)
    build(RuntimeConfig())
    said = capsys.readouterr().err.splitlines()
    assert len(said) == lines
    assert all("HAProxy is missing" in line for line in said)


def test_any_other_address_than_loopback_needs_keys() -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.0.0.9"):
        assert RuntimeConfig(host=host).host == host
    keys = AccessSettings(keys={"a": KeySettings(sha256="0" * 64)})
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        with pytest.raises(ValidationError, match=r"access\.keys"):
            RuntimeConfig(host=host)
        RuntimeConfig(host=host, access=keys)
