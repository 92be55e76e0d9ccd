"""`model-runtime serve` around Ray: the port, the signals, the progress. tests/serve_app/cli/test_main.py starts it."""

import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.contract.errors import Unavailable
from serve_app import local
from serve_app.client import ModelRuntimeClient
from serve_app.config.config import RuntimeConfig
from serve_app.supervisor.launched import Launched
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

    monkeypatch.setattr(local, "_launch", start)
    with answering() as server, local.start_or_join(int(server.url.rpartition(":")[2])) as client:
        assert client.models() == []


def raises(failure: Exception) -> Callable[..., None]:
    def call(*given: object) -> None:
        raise failure

    return call


SERVES = """
import signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from serve_app.config.config import RuntimeConfig
config = RuntimeConfig.model_validate_json(sys.stdin.read())
class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"models": []}')
    def log_message(self, *given): pass
print(config.quarantine_s, flush=True)
HTTPServer(("127.0.0.1", int(sys.argv[1])), Answers).serve_forever()
"""
"""A runtime with its configuration, without Ray."""


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Launched]]:
    """What is started in place of runtimes, one after the other; none of it at the end."""
    made: list[Launched] = []

    def launch(config: RuntimeConfig, port: int) -> Launched:
        command = [sys.executable, "-c", SERVES, str(port)]
        made.append(Launched(command, config.model_dump_json(exclude_unset=True)))
        return made[-1]

    monkeypatch.setattr(local, "_launch", launch)
    monkeypatch.setattr(local, "_launched", {})
    yield made
    for launched in made:
        launched.end()


def test_start_or_join_starts_a_runtime_where_there_is_none_and_anew_once_that_has_ended(
    launches: list[Launched],
) -> None:
    port = free_port()
    for count in (1, 2):
        for _ in range(2):
            with local.start_or_join(port, RuntimeConfig(quarantine_s=7)) as client:
                assert client.models() == []
        assert (len(launches), launches[-1].said) == (count, "7.0")
        launches[-1].end()


def test_start_or_join_waits_for_a_runtime_that_starts_itself_anew(
    launches: list[Launched], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    local.start_or_join(port).close()
    answers = iter([False, False, True])
    monkeypatch.setattr(local, "_is_alive", lambda *given: next(answers))
    monkeypatch.setattr(ModelRuntimeClient, "models", raises(Unavailable("the runtime is starting")))
    local.start_or_join(port).close()
    assert (len(launches), list(answers)) == (1, [])


def test_start_or_join_says_why_a_start_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", "raise SystemExit('port 8000 is taken')"]
    monkeypatch.setattr(local, "_launch", lambda *given: Launched(command, ""))
    monkeypatch.setattr(local, "_launched", {})
    with pytest.raises(Unavailable, match="the runtime has ended: port 8000 is taken"):
        local.start_or_join(free_port())


def test_start_or_join_refuses_a_mistake_before_anything_is_started(launches: list[Launched]) -> None:
    with pytest.raises(ValueError, match="models: there is no folder 'nowhere'"):
        local.start_or_join(free_port(), RuntimeConfig(models=Path("nowhere")))
    assert launches == []


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
