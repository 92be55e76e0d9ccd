"""One checker for both kinds of files, models and places included."""

from pathlib import Path

import pytest
import yaml

from deployments.families.table import FAMILIES
from serve_app.check import mistakes_in
from serve_app.cli.main import main
from tests.support.tiny_models import save_text_model

NO_CPUS: dict[str, object] = {"num_cpus": 0}
"""So that nothing is missing on a small machine."""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    save_text_model(tmp_path / "models" / "text")
    return tmp_path / "models"


def file_of(folder: Path, settings: dict[str, object], deployed: bool) -> Path:
    """The settings as a file for `model-runtime serve`, or for `serve deploy`."""
    content: object = settings
    if deployed:
        application = {"name": "m", "import_path": "serve_app.app:build", "args": settings}
        content = {"http_options": {"host": "127.0.0.1"}, "applications": [application]}
    (folder / "file.yaml").write_text(yaml.safe_dump(content))
    return folder / "file.yaml"


@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, None),
        ({"models": "none"}, "models: there is no folder 'none'"),
        ({"cache": "/dev/null/cache"}, "cannot write to /dev/null/cache"),
        ({"link_targets": ["/none"]}, "link_targets: there is no folder '/none'"),
        ({"families": {"text_generation": {"preload": ["txt"]}}}, "preload: no model 'txt'; did you mean 'text'?"),
        ({"families": {"object_detection": {"preload": ["text"]}}}, "preload: text serves text_generation"),
        ({"famlies": 1}, "unknown key 'famlies'; did you mean 'families'?"),
    ],
)
def test_each_mistake_is_one_line(
    models: Path, tmp_path: Path, deployed: bool, settings: dict[str, object], said: str | None
) -> None:
    own = settings.get("families", {})
    families = {family.name: NO_CPUS for family in FAMILIES}
    assert isinstance(own, dict)
    for name, family in own.items():
        families[name] = NO_CPUS | family
    everything = {"models": str(models), "cache": str(tmp_path)} | settings | {"families": families}
    file = file_of(tmp_path, everything, deployed)
    lines = mistakes_in(file, FAMILIES)
    assert len(lines) == (said is not None)
    assert all(line.startswith("file.yaml: ") and said is not None and said in line for line in lines)


def test_a_broken_model_is_named_with_its_reason(models: Path, tmp_path: Path) -> None:
    (models / "text" / "config.json").write_text("{")
    lines = mistakes_in(file_of(tmp_path, {"models": str(models)}, deployed=False), FAMILIES)
    assert any(line.startswith("file.yaml: models: text: ") for line in lines)


def test_the_command_says_so_and_ends_with_1(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = file_of(tmp_path, {"models": str(models), "families": {f.name: NO_CPUS for f in FAMILIES}}, False)
    assert main(["config", "--check", str(good)]) == 0
    assert capsys.readouterr().out == "file.yaml: no mistake found\n"
    file_of(tmp_path, {"host": "0.0.0.0"}, False)
    assert main(["config", "--check", str(good)]) == 1
    assert "there have to be access.keys" in capsys.readouterr().err
