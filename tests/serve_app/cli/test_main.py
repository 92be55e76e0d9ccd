"""The command line: what people type, what it prints, and how it reports errors."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
import yaml

from serve_app.cli.main import main
from serve_app.config.config import read_config
from tests.support import PROJECT
from tests.support.ports import free_port
from tests.support.running import Running

START_TIMEOUT_S = 200


def test_models_is_a_table_for_people_and_json_for_programs(
    runtime: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "--url", runtime.url]) == 0
    assert "image_classification" in capsys.readouterr().out
    assert main(["models", "--json", "--url", runtime.url]) == 0
    assert "text" in {status["model_id"] for status in json.loads(capsys.readouterr().out)}


def test_an_error_is_printed_to_stderr_with_its_code(runtime: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["infer", "text", "nope", "p", "--url", runtime.url]) == 1
    assert capsys.readouterr().err.startswith("model_not_found: no model 'nope'")


def test_an_unreachable_runtime_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--url", f"http://127.0.0.1:{free_port()}"]) == 1
    assert "cannot be reached" in capsys.readouterr().err


def test_config_prints_every_setting_and_can_be_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "runtime.yaml"
    file.write_text("families: {text_generation: {max_cpu_share: 0.5}}")
    assert main(["config", "--config", str(file)]) == 0
    printed = capsys.readouterr().out
    families = yaml.safe_load(printed)["families"]
    assert families["text_generation"]["max_cpu_share"] == 0.5
    assert families["image_classification"]["required_mem_mb"] is None
    file.write_text(printed)
    assert main(["config", "--config", str(file)]) == 0
    assert capsys.readouterr().out == printed


def test_config_reports_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "runtime.yaml"
    file.write_text("famlies: {}")
    assert main(["config", "--config", str(file)]) == 1
    assert capsys.readouterr().err == "runtime.yaml: unknown key 'famlies'; did you mean 'families'?\n"


@pytest.mark.parametrize(
    ("options", "roles"),
    [([], {}), (["--administrator"], {"administrator": True}), (["--metrics-only"], {"metrics_only": True})],
)
def test_a_new_key_is_printed_with_the_lines_that_let_the_runtime_know_it(
    options: list[str], roles: dict[str, bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "new", "someone", *options]) == 0
    file = tmp_path / "key.yaml"
    file.write_text(capsys.readouterr().out)
    key = read_config(file).access.keys["someone"]
    assert key.model_dump(exclude_defaults=True, exclude={"sha256"}) == roles
    (printed,) = re.findall(r"mr-\S+", file.read_text())
    assert key.sha256 == hashlib.sha256(printed.encode()).hexdigest()


def test_serve_refuses_a_taken_port_and_a_missing_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *given: None)
    assert main(["serve", "--models", str(tmp_path / "none")]) == 1
    assert "models: there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_serve_says_what_it_needs_where_there_is_no_linux(
    platform: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert main(["serve"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(text in error for text in ("needs Linux", "container", "WSL 2", "untested"))


def test_client_and_command_line_import_nothing_that_only_unix_has() -> None:
    blocked = "import asyncio, sys; sys.modules.update(fcntl=None, pwd=None, resource=None, termios=None)"
    check = f"{blocked}; import serve_app.client, serve_app.cli.main as cli; sys.exit(cli.main(['config']))"
    ran = subprocess.run([sys.executable, "-c", check], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.cluster
def test_serve_shows_that_it_works_warns_and_leaves_nothing_behind(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "runtime.yaml").write_text("families: {text_generation: {preload: [txt]}}")
    command = [
        sys.executable,
        "-m",
        "serve_app.cli.main",
        "serve",
        "--models",
        str(repository),
        "--config",
        str(tmp_path / "runtime.yaml"),
        "--port",
        str(free_port()),
    ]
    serving = subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    watchdog = threading.Timer(START_TIMEOUT_S, serving.kill)
    watchdog.start()
    lines: list[str] = []
    assert serving.stdout is not None
    try:
        for line in serving.stdout:
            lines.append(line)
            if line.startswith("curl"):
                break
        output = "".join(lines)
        assert "starting Ray" in output
        assert "loading models" in output
        assert "is ready after" in output
        assert "/, a playground and charts" in output
        assert "warning: families.text_generation.preload: no model 'txt'; did you mean 'text'?" in output
        assert lines[0].startswith("caching in /")
        started = psutil.Process(serving.pid).children(recursive=True)
        assert any("raylet" in process.name() for process in started)
        # As Ctrl-C does: to the whole group.
        os.killpg(serving.pid, signal.SIGINT)
        rest, _ = serving.communicate(timeout=15)
        assert "stopped" in rest
        assert "Traceback" not in rest
        assert serving.returncode == 0
        _, alive = psutil.wait_procs(started, timeout=30)  # on a busy machine they take seconds to end
        assert [process.cmdline() for process in alive] == []
    finally:
        watchdog.cancel()
        serving.kill()


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"model-runtime {version('model-runtime')}\n")


@pytest.mark.parametrize("command", ["", "serve", "infer text", "doctor"])
def test_the_help_says_what_the_exit_statuses_mean(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    assert "2 for wrong usage" in " ".join(capsys.readouterr().out.split())
