"""`model-runtime serve` around Ray: the port, the signals, the progress. tests/serve_app/cli/test_main.py starts it."""

import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

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


def test_a_cache_that_cannot_be_written_to_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *given: None)
    config = RuntimeConfig(cache=Path("/dev/null/cache"))
    with pytest.raises(OSError, match=r"cannot write to /dev/null/cache \(Not a directory\); set `cache` to a folder"):
        local.serve_until_interrupted(config, free_port())


def test_rays_token_is_kept_in_the_home_where_it_can_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert local._token_environment(tmp_path) == {}
    for home in ("/", "/dev/null"):
        monkeypatch.setenv("HOME", home)
        assert local._token_environment(tmp_path) == {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "ray-token")}
        assert (tmp_path / "ray-token").stat().st_mode & 0o777 == 0o600
        assert len((tmp_path / "ray-token").read_text()) >= 32
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "the operator's own")
    assert local._token_environment(tmp_path) == {}


def test_the_way_into_rays_dashboard_is_a_command_that_prints_the_token(tmp_path: Path) -> None:
    (token := tmp_path / "ray-token").write_text("the token")
    line = local._way_into("127.0.0.1:8265", str(token))
    assert line.startswith("Ray's dashboard: http://127.0.0.1:8265 ")
    command = line.partition("token: ")[2].removesuffix(")")
    assert subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout == "the token"
    program, argument = local._way_into("127.0.0.1:8265", None).partition("token: ")[2].removesuffix(")").split()
    assert argument == "get-auth-token"
    assert os.access(program, os.X_OK)


def test_sockets_lie_beside_temporary_files_unless_their_names_would_be_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/var/tmp")
    assert local._temporary_folder(local.MAX_NAME) == Path("/var/tmp")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert local._temporary_folder(local.MAX_NAME) == Path("/tmp")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) == tmp_path)
    assert local._temporary_folder(1000) == tmp_path
    with pytest.raises(OSError, match=f"TMPDIR: {tmp_path} is too long a name for sockets; set it to one of at most"):
        local._temporary_folder(local.MAX_RAY_NAME)


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
