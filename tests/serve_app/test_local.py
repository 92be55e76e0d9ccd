"""`model-runtime serve` around Ray: the port, the signals, the progress. tests/serve_app/cli/test_main.py starts it."""

import socket
import subprocess
from pathlib import Path

import pytest

from deployments.contract.errors import Unavailable
from serve_app import local
from serve_app.config.config import RuntimeConfig
from serve_app.supervisor.link import Reports
from tests.support.http_server import answering
from tests.support.ports import free_port


def test_a_cache_that_cannot_be_written_to_is_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    config = RuntimeConfig(cache=Path("/dev/null/cache"))
    with pytest.raises(OSError, match=r"cannot write to /dev/null/cache \(Not a directory\); set `cache` to a folder"):
        local.serve_until_interrupted(config, free_port())


def test_start_or_join_joins_a_runtime_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*given: object) -> None:
        raise AssertionError("started another one")

    monkeypatch.setattr(local, "start_ray", start)
    with answering() as server, local.start_or_join(int(server.url.rpartition(":")[2])) as client:
        assert client.models() == []


def test_start_or_join_starts_a_runtime_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[RuntimeConfig] = []
    deployed: list[int] = []
    monkeypatch.setattr(local, "_front", lambda *given: None)
    monkeypatch.setattr(local, "start_ray", lambda *_: started.append(RuntimeConfig()))
    monkeypatch.setattr(local, "_deploy", lambda config, port, *_: deployed.append(port))
    monkeypatch.setattr(local, "_is_alive", lambda *_: True)
    monkeypatch.setattr(local, "start_dashboard", lambda token: None)
    gcs = subprocess.Popen(["sleep", "1000"])
    monkeypatch.setattr(local, "rays_processes", lambda: {"gcs_server": gcs.pid})
    monkeypatch.setattr(local, "_started_here", {})
    port = free_port()
    local.start_or_join(port).close()
    assert (started, deployed) == ([RuntimeConfig()], [port])
    gcs.kill()
    gcs.wait()
    with pytest.raises(
        Unavailable, match="gcs_server died, of the Ray that this process has started: start this process"
    ):
        local.start_or_join(port)


@pytest.mark.parametrize(("cpus", "replicas"), [(2, 1), (4, 2)])
def test_from_four_cpus_on_there_are_two_ingress_replicas_unless_it_is_said(cpus: float, replicas: int) -> None:
    assert local.with_ingresses(RuntimeConfig(), cpus).ingress.autoscaling.min_replicas == replicas
    said = RuntimeConfig.model_validate({"ingress": {"autoscaling": {"max_replicas": 1}}})
    assert local.with_ingresses(said, cpus) == said


@pytest.mark.parametrize(
    ("anew", "failure", "reason", "again"),
    [
        (False, ValueError("models: there is no folder"), "models: there is no folder", False),
        (True, ValueError("models: there is no folder"), "models: there is no folder", True),
        (False, Unavailable("no replica"), "no replica", True),
        (False, RuntimeError("Traceback\n...\nthe port 8265 is taken"), "RuntimeError: the port 8265 is taken", True),
        (False, KeyError(), "KeyError: without a word", True),
    ],
)
def test_a_start_that_fails_says_why_in_one_line_and_whether_another_may_go_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anew: bool, failure: Exception, reason: str, again: bool
) -> None:
    def start(*given: object) -> None:
        raise failure

    monkeypatch.setattr(local, "start_ray", start)
    monkeypatch.setattr(local, "stop_ray", lambda: None)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        runtime = local._Runtime(RuntimeConfig(), 1, tmp_path, True, (), None)
        assert runtime.serve(anew, theirs) == 0
        (report,) = Reports(ours).read(10)
        ours.shutdown(socket.SHUT_WR)
        assert (report.failed, report.again) == (reason, again)
