"""A HAProxy that is killed has a stand-in, until another one is there or whoever started it has ended."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from serve_app.http.haproxy import haproxy_binary
from serve_app.http.stand_in import LIVES_S
from tests.support.ports import free_port
from tests.support.until import wait_until

PROGRAM = haproxy_binary()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no HAProxy")

MANAGER = """
import subprocess, sys
become = "import os, sys; from pathlib import Path; from serve_app.http import stand_in; "
become += "stand_in.start(Path(sys.argv[2]), sys.argv[1], ['-db']); "
become += "os.execv(sys.argv[1], [sys.argv[1], '-db', '-f', *sys.argv[2:]])"
for line in sys.stdin:
    print(subprocess.Popen([sys.executable, "-c", become, *sys.argv[1:], *line.split()]).pid, flush=True)
"""
"""Starts HAProxy for each line, with the line's options, as Serve's manager does."""


@dataclass
class Manager:
    process: "subprocess.Popen[str]"
    configuration: Path
    port: int

    def starts_haproxy(self, *options: str) -> psutil.Process:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{' '.join(options)}\n")
        self.process.stdin.flush()
        haproxy = psutil.Process(int(self.process.stdout.readline()))
        wait_until(lambda: haproxy.name() == "haproxy" and self.is_answered(), "HAProxy answers")
        return haproxy

    def is_answered(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}").is_success
        except httpx.TransportError:
            return False

    def programs(self) -> list[str]:
        """Each HAProxy by the name of its configuration, and each program that watches one by its own."""
        folder, found = self.configuration.parent, list[str]()
        for process in psutil.process_iter():
            given = words(process) if process.pid != self.process.pid else []
            found += [Path(word).name for word in given if Path(word).parent == folder]
            found += ["stand_in.py"] if str(folder) in given else []
        return sorted(found)


def words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with started(tmp_path) as manager:
        yield manager
    wait_until(lambda: manager.programs() == [], "nothing of it is left")


@contextmanager
def started(folder: Path) -> Iterator[Manager]:
    configuration, port = folder / "haproxy.cfg", free_port()
    configuration.write_text(
        f"global\n    stats socket {folder}/admin.sock mode 600 level admin\n"
        "defaults\n    mode http\n    timeout connect 5s\n    timeout client 5s\n    timeout server 5s\n"
        f"frontend all\n    bind 127.0.0.1:{port}\n    http-request return status 200\n"
    )
    command = [sys.executable, "-c", MANAGER, str(PROGRAM), str(configuration)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        yield Manager(process, configuration, port)
        for child in psutil.Process(process.pid).children():
            child.kill()
        process.kill()


def test_a_killed_haproxy_is_answered_for_and_killed_again_too(manager: Manager) -> None:
    manager.starts_haproxy().kill()
    wait_until(manager.is_answered, "the stand-in answers")
    assert manager.programs() == ["stand_in.cfg", "stand_in.py"]
    file = str(manager.configuration.with_name("stand_in.cfg"))
    [stand_in] = [process for process in psutil.process_iter() if file in words(process)]
    answers_since = time.monotonic()
    wait_until(lambda: time.monotonic() > answers_since + LIVES_S, "it has lived long enough")
    stand_in.kill()
    wait_until(manager.is_answered, "another one answers")


def test_a_stand_in_does_not_pass_for_serves_own(manager: Manager) -> None:
    manager.starts_haproxy().kill()
    wait_until(manager.is_answered, "the stand-in answers")
    assert "stats socket" not in manager.configuration.with_name("stand_in.cfg").read_text()


def test_it_ends_when_another_haproxy_is_started(manager: Manager) -> None:
    manager.starts_haproxy().kill()
    wait_until(manager.is_answered, "the stand-in answers")
    manager.starts_haproxy()
    wait_until(lambda: manager.programs() == ["haproxy.cfg", "stand_in.py"], "HAProxy is alone")
    assert manager.is_answered()


def test_a_haproxy_that_hands_over_has_none(manager: Manager) -> None:
    old = manager.starts_haproxy()
    new = manager.starts_haproxy("-sf", str(old.pid))
    wait_until(lambda: old.status() == psutil.STATUS_ZOMBIE, "the old one has ended")
    wait_until(lambda: manager.programs() == ["haproxy.cfg", "stand_in.py"], "HAProxy is alone")
    assert new.is_running()


def test_whoever_started_it_ends_and_nothing_answers(manager: Manager) -> None:
    manager.starts_haproxy().kill()
    wait_until(manager.is_answered, "the stand-in answers")
    manager.process.kill()
    wait_until(lambda: not manager.is_answered(), "nothing answers")
