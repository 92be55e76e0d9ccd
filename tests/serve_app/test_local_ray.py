"""Ray on this machine alone: where its token and its sockets lie, and what is printed meanwhile."""

import os
import subprocess
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray._private import services
from ray._private.node import Node

from serve_app import local_ray
from serve_app.changes import Outcome
from tests.serve_app.test_capacity import UNPLACED


def test_rays_token_is_kept_in_the_home_where_it_can_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert local_ray.token_environment(tmp_path) == {}
    for home in ("/", "/dev/null"):
        monkeypatch.setenv("HOME", home)
        assert local_ray.token_environment(tmp_path) == {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "ray-token")}
        assert (tmp_path / "ray-token").stat().st_mode & 0o777 == 0o600
        assert len((tmp_path / "ray-token").read_text()) >= 32
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "the operator's own")
    assert local_ray.token_environment(tmp_path) == {}


def test_the_way_into_rays_dashboard_is_a_command_that_prints_the_token(tmp_path: Path) -> None:
    (token := tmp_path / "ray-token").write_text("the token")
    line = local_ray.way_into("127.0.0.1:8265", str(token))
    assert line.startswith("Ray's dashboard: http://127.0.0.1:8265 ")
    command = line.partition("token: ")[2].removesuffix(")")
    assert subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout == "the token"
    program, argument = local_ray.way_into("127.0.0.1:8265", None).partition("token: ")[2].removesuffix(")").split()
    assert argument == "get-auth-token"
    assert os.access(program, os.X_OK)


def test_ray_is_started_without_a_dashboard_a_log_monitor_and_an_autoscaler_and_on_any_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node: Any = Node
    rays: Any = services
    plain, started = node.start_api_server, list[int]()

    def start_raylet(name: str, dashboard_agent_listen_port: int) -> None:
        started.append(dashboard_agent_listen_port)

    def init(**options: object) -> None:
        assert not options["include_dashboard"]
        rays.start_raylet("raylet", dashboard_agent_listen_port=52365)
        assert node.start_api_server(None) is node.start_log_monitor(None) is node.start_monitor(None) is None

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr(services, "start_raylet", start_raylet)
    local_ray.init_on_loopback()
    assert (started, rays.start_raylet) == ([0], start_raylet)
    assert node.start_api_server is plain


@pytest.mark.parametrize("fails", [False, True])
def test_the_dashboard_is_started_afterwards_and_need_not_succeed(
    fails: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    node = SimpleNamespace(webui_url=None)

    def start(include_dashboard: bool, raise_on_failure: bool) -> None:
        assert (include_dashboard, raise_on_failure) == (True, False)
        node.webui_url = None if fails else "127.0.0.1:8265"

    node.start_api_server = start
    monkeypatch.setattr("ray._private.worker._global_node", node)
    local_ray.start_dashboard(None)
    printed = capsys.readouterr().out
    assert printed == "" if fails else printed.startswith("Ray's dashboard: http://127.0.0.1:8265 ")


def test_sockets_lie_beside_temporary_files_unless_their_names_would_be_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/var/tmp")
    assert local_ray.temporary_folder(local_ray.MAX_NAME) == Path("/var/tmp")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert local_ray.temporary_folder(local_ray.MAX_NAME) == Path("/tmp")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) == tmp_path)
    assert local_ray.temporary_folder(1000) == tmp_path
    with pytest.raises(OSError, match=f"TMPDIR: {tmp_path} is too long a name for sockets; set it to one of at most"):
        local_ray.temporary_folder(local_ray.MAX_RAY_NAME)


@pytest.mark.parametrize(
    ("status", "message", "outcome"),
    [
        ("RUNNING", "", Outcome()),
        ("DEPLOYING", "", None),
        (
            "DEPLOYING",
            UNPLACED.format('{"CPU": 2.0}', '{"CPU": 0.5}'),
            Outcome(waits="a replica waits for 2 CPU on one"),
        ),
        ("DEPLOY_FAILED", "The replica failed:\nRuntimeError: no engine", Outcome("RuntimeError: no engine")),
    ],
)
def test_what_serve_has_come_to_is_known_by_the_status_of_its_application(
    status: str, message: str, outcome: Outcome | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployments = {"TextGeneration": SimpleNamespace(message=message)}
    application = SimpleNamespace(status=status, message="", deployments=deployments)
    monkeypatch.setattr("ray.serve.status", lambda: SimpleNamespace(applications={"model-runtime": application}))
    found = local_ray.outcome_of("model-runtime")
    if found and found.waits:
        found = Outcome(waits=found.waits.removesuffix(" node; 0.5 CPU are free on all together"))
    assert found == outcome


def test_progress_is_printed_with_the_seconds_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    with local_ray.progress("starting Ray", time.monotonic() - 7):
        pass
    assert capsys.readouterr().out == "[   7 s] starting Ray …\n"
