"""A file for `serve deploy` is checked before Ray Serve gets it, which ignores what it does not know."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.config.config import RuntimeConfig, read_config
from serve_app.config.serve_file import read_configs
from tests.support import PROJECT

COMMITTED = PROJECT / "serve_config.yaml"
KEY = {"access": {"keys": {"team": {"sha256": "0" * 64}}}}


def content(**top: Any) -> dict[str, Any]:
    """Of the file that the project has, with other keys at its top."""
    given: dict[str, Any] = yaml.safe_load(COMMITTED.read_text("utf-8"))
    return given | top


def applications(*args: dict[str, Any], **fields: Any) -> dict[str, Any]:
    ours = {"import_path": "serve_app.app:build"} | fields
    each = [{"name": f"a{n}", "route_prefix": f"/{n}", "args": one} | ours for n, one in enumerate(args)]
    return {"applications": each}


def read(tmp_path: Path, given: object) -> list[RuntimeConfig]:
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(given))
    return read_configs(file)


def test_the_committed_file_is_right_and_its_arguments_are_the_configuration(tmp_path: Path) -> None:
    (config,) = read_configs(COMMITTED)
    (tmp_path / "runtime.yaml").write_text(yaml.safe_dump(content()["applications"][0]["args"]))
    assert config == read_config(tmp_path / "runtime.yaml")


def test_a_file_of_the_other_kind_is_read_as_ever(tmp_path: Path) -> None:
    assert read(tmp_path, {"models": "m"}) == [RuntimeConfig(models=Path("m"))]


def test_several_applications_have_their_own_and_those_of_others_are_left_alone(tmp_path: Path) -> None:
    given = content(**applications({"models": "a"}, {}))
    other = {"name": "other", "import_path": "other:app", "args": {"any": 1}, "route_prefix": "/other"}
    given["applications"].append(other)
    assert read(tmp_path, given) == [RuntimeConfig(models=Path("a")), RuntimeConfig()]


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        (
            content(**applications({"famlies": {}})),
            ["applications.0.args: unknown key 'famlies'; did you mean 'families'?"],
        ),
        (
            content(**applications({}, {"families": {"text_generation": {"preload": 5}}})),
            ["applications.1.args.families.text_generation.preload: Input should be a valid tuple"],
        ),
        (
            content(**applications({}, route_prefx="/llm"), proxy_locaton="HeadOnly"),
            [
                "applications.0.route_prefx: Serve knows no such key; did you mean 'route_prefix'?",
                "proxy_locaton: Serve knows no such key; did you mean 'proxy_location'?",
            ],
        ),
        (
            content(http_options={"prt": 1, "host": "127.0.0.1"}),
            ["http_options.prt: Serve knows no such key; did you mean 'port'?"],
        ),
        (content(applications=[{"name": "a"}]), ["applications.0.import_path: Field required"]),
        (content(applications=5), ["applications: Input should be a valid list"]),
        (
            content(applications=[{"name": "a", "import_path": "other:app"}]),
            ["applications: none has the import_path serve_app.app:build"],
        ),
        (
            content(http_options={"host": "10.0.0.1"}),
            [
                "http_options.host: '10.0.0.1' can be reached from elsewhere, "
                "so there have to be access.keys in applications.0.args"
            ],
        ),
        (
            content(http_options=None),
            [
                "http_options.host: '0.0.0.0' can be reached from elsewhere, "
                "so there have to be access.keys in applications.0.args"
            ],
        ),
    ],
)
def test_each_mistake_is_one_line_that_says_where(tmp_path: Path, given: dict[str, Any], lines: list[str]) -> None:
    if given["http_options"] is None:
        del given["http_options"]
    with pytest.raises(ValueError, match="serve.yaml") as wrong:
        read(tmp_path, given)
    assert str(wrong.value).splitlines() == [f"serve.yaml: {line}" for line in lines]


def test_with_keys_it_may_listen_everywhere(tmp_path: Path) -> None:
    given = content(**applications(KEY), http_options={"host": "0.0.0.0"})
    assert len(read(tmp_path, given)) == 1
