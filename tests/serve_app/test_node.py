"""The environment of a cluster's node, and the command that runs within it."""

import atexit
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ray.serve._private import constants

from deployments.system.cpu import SELDOM_WOKEN
from serve_app import node
from serve_app.cli.main import main
from serve_app.http import haproxy
from tests.support import PROJECT

SHOWN = "import json, os; print(json.dumps(dict(os.environ)))"


def test_a_command_gets_all_that_serve_reads_from_the_environment_and_a_private_folder() -> None:
    command = [sys.executable, "-m", "serve_app.cli.main", "exec", "python", "-c", SHOWN]
    shown = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    environment = json.loads(shown.stdout)
    assert environment["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] == "serve_app.http.middleware:server_middlewares"
    assert int(environment["RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"]) >= 2**30
    assert environment["RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"] == "1", "a job's handles work without an event loop"
    if haproxy.haproxy_binary() is None:
        assert "HAProxy is missing" in shown.stderr
        return
    folder = Path(environment["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"]).parent
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not list(folder.iterdir()), "the largest body is the configuration's, which is not known yet"
    folder.rmdir()


def test_serve_still_reads_what_wakes_it_less_often(tmp_path: Path) -> None:
    source = Path(constants.__file__).read_text("utf-8")
    environment = node.node_environment(tmp_path)
    for name, value in SELDOM_WOKEN.items():
        assert f'"{name}"' in source
        assert environment[name] == value


def test_a_program_that_does_not_exist_is_an_error_and_none_at_all_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(node, "set_environment", lambda: None)
    assert main(["exec", "no-such-program-anywhere"]) == 1
    assert main(["exec"]) == 2
    assert "model-runtime exec ray start --head" in capsys.readouterr().err


def test_the_folder_of_a_program_that_ends_its_ray_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    at_exit: list[tuple[object, ...]] = []
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(atexit, "register", lambda *given, **options: at_exit.append(given))
    node.set_environment_until_exit()
    ((remove, folder),) = at_exit
    assert remove is shutil.rmtree
    shutil.rmtree(str(folder))
