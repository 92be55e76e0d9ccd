"""A configuration file that changes while the runtime runs."""

from pathlib import Path

import pytest

from serve_app.access.api_keys import new_key
from serve_app.cli.main import main
from serve_app.config.config import RuntimeConfig, read_config
from serve_app.config.reload import Reload

SHA256 = new_key()[1]
KEYS = f"access: {{keys: {{team: {{sha256: {SHA256}}}}}}}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "runtime.yaml"
    file.write_text("")
    return file


def reload_of(file: Path) -> Reload:
    return Reload(file, lambda: read_config(file), RuntimeConfig())


def test_an_unchanged_file_is_not_read(file: Path) -> None:
    def unread() -> RuntimeConfig:
        raise AssertionError("read")

    assert Reload(file, unread, RuntimeConfig()).poll(print) is None


def test_a_new_key_is_in_force_once_the_file_has_it(file: Path) -> None:
    reload = reload_of(file)
    file.write_text(KEYS)
    changed = reload.poll(print)
    assert changed is not None
    assert list(changed.access.keys) == ["team"]
    assert reload.poll(print) is None


def test_a_broken_file_changes_nothing_and_is_reported(file: Path) -> None:
    reload = reload_of(file)
    reported: list[str] = []
    file.write_text("acess: {}\n")
    assert reload.poll(reported.append) is None
    assert "did you mean 'access'" in reported[0]
    file.write_text(KEYS)
    assert reload.poll(reported.append) is not None


def test_keys_stay_while_other_hosts_can_reach_the_runtime(file: Path) -> None:
    file.write_text(f"host: 0.0.0.0\n{KEYS}")
    reload = Reload(file, lambda: read_config(file), read_config(file))
    reported: list[str] = []
    file.write_text("host: 127.0.0.1\n")  # which takes effect at the next start, as the keys would at once
    assert reload.poll(reported.append) is None
    assert "there have to be access.keys" in reported[0]
    assert SHA256 not in reported[0]


def test_a_key_that_waits_for_the_next_start_is_named_and_not_changed(file: Path) -> None:
    reload = reload_of(file)
    reported: list[str] = []
    file.write_text("ingress: {max_body_mb: 1}\ngrpc_port: 5\nray_dashboard: false\n")
    assert reload.poll(reported.append) is None
    waiting = ("grpc_port", "ray_dashboard", "ingress.max_body_mb")
    assert reported == [f"runtime.yaml: {name} takes effect at the next start" for name in waiting]


def test_all_others_take_effect_and_are_named(file: Path) -> None:
    reload = reload_of(file)
    reported: list[str] = []
    file.write_text("ingress: {access_log: true, max_body_mb: 1}\nfamilies: {text_generation: {deadline_s: 5}}\n")
    changed = reload.poll(reported.append)
    assert changed is not None
    assert (changed.ingress.access_log, changed.ingress.max_body_mb) == (True, 32)
    assert changed.settings("text_generation").deadline_s == 5
    assert reported[1] == "runtime.yaml: ingress, families.text_generation changed, with 0 keys in force"


def test_a_forced_poll_reads_a_file_that_looks_unchanged(file: Path) -> None:
    reload = Reload(
        file, lambda: RuntimeConfig.model_validate({"access": {"keys": {"a": {"sha256": SHA256}}}}), RuntimeConfig()
    )
    assert reload.poll(print) is None
    reload.forced = True
    assert reload.poll(print) is not None


def test_a_new_key_prints_what_the_configuration_takes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "new", "team", "--administrator"]) == 0
    printed = capsys.readouterr().out
    file.write_text(printed)
    key = read_config(file).access.keys["team"]
    assert key.administrator
    assert key.sha256 not in printed.split("# For")[0]
