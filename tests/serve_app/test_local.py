"""`model-runtime serve` around Ray: the port, the signals, the progress. tests/serve_app/cli/test_main.py starts it."""

import signal
import socket
import threading
import time

import pytest

from serve_app import local
from serve_app.config.config import RuntimeConfig
from tests.support.http_server import answering
from tests.support.ports import free_port


def test_a_port_in_use_is_refused_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"127\.0\.0\.1:{port} cannot be had .*choose another with --port"):
            local._check_port("127.0.0.1", port)
    local._check_port("127.0.0.1", free_port())


def test_start_or_join_joins_a_runtime_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(config: RuntimeConfig, started: float) -> None:
        raise AssertionError("started another one")

    monkeypatch.setattr(local, "_start_ray", start)
    with answering() as server, local.start_or_join(int(server.url.rpartition(":")[2])) as client:
        assert client.models() == []


def test_start_or_join_starts_a_runtime_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[RuntimeConfig] = []
    deployed: list[int] = []
    monkeypatch.setattr(local, "_start_ray", lambda config, _: started.append(config))
    monkeypatch.setattr(local, "_deploy", lambda config, port, families, _: deployed.append(port))
    port = free_port()
    local.start_or_join(port).close()
    assert (started, deployed) == ([RuntimeConfig()], [port])


def test_only_the_first_signal_interrupts() -> None:
    stopping = threading.Event()
    stop = local._Stop(stopping)
    with pytest.raises(KeyboardInterrupt):
        stop(signal.SIGINT, None)
    assert stopping.is_set()
    stop(signal.SIGINT, None)


def test_progress_is_printed_with_the_seconds_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    with local._progress("starting Ray", time.monotonic() - 7):
        pass
    assert capsys.readouterr().out == "[   7 s] starting Ray …\n"
