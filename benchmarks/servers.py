"""One server at a time: started on loopback in a process group of its own, warmed by its caller, stopped again."""

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

READY_S = 300.0
STOPPING_S = 20.0
SETTLED_AFTER_S = 3
SETTLED_CORES = 0.3
_PR_SET_CHILD_SUBREAPER = 36
_NOT_INHERITED = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")


@dataclass(frozen=True)
class Server:
    """How a server is started and spoken to. `{port}` in the command is filled in.

    `body` makes the JSON request of what is sent, `answer` takes what is compared between servers from the reply.
    """

    name: str
    command: Sequence[str | Path]
    path: str
    body: Callable[[Any], dict[str, Any]]
    answer: Callable[[Any], Any]
    environment: Mapping[str, str] = field(default_factory=dict)


class ServerFailed(Exception):
    """The server ended or never answered. The message holds the end of its log."""


@contextmanager
def running(server: Server, first: Any) -> Iterator[str]:
    """The URL to post to, once the server answers `first`. Raises ServerFailed."""
    port = _free_port()
    # A short path: Ray puts sockets below it, whose names are limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="bench", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [str(part).format(port=port) for part in server.command]
        environment = _environment(Path(command[0]).parent, Path(folder)) | dict(server.environment)
        with started(command, environment, Path(folder)) as (process, log):
            url = f"http://127.0.0.1:{port}{server.path}"
            _wait_until_it_answers(server, url, first, process, log)
            yield url


@contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, **pipes: Any
) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """The process and its log. Whatever happens, it and all that it started is gone afterwards."""
    _adopt_orphans()
    log = folder / "log.txt"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            list(command),
            env=dict(environment),
            cwd=folder,
            stdin=pipes.get("stdin", subprocess.DEVNULL),
            stdout=pipes.get("stdout", sink),
            stderr=sink,
            text=True,
            start_new_session=True,
        )
        try:
            yield process, log
        finally:
            _stop(process)


def plain_environment(folder: Path) -> dict[str, str]:
    """For processes in our own environment."""
    return _environment(Path(sys.executable).parent, folder)


def settle(limit_s: float) -> float:
    """Waits until what was started is idle, as after a compilation in the background. Returns how long it took."""
    begin = time.monotonic()
    quiet = 0
    before = _cpu_seconds()
    while quiet < SETTLED_AFTER_S and time.monotonic() - begin < limit_s:
        time.sleep(1)
        now = _cpu_seconds()
        used = sum(seconds - before.get(pid, 0.0) for pid, seconds in now.items())
        quiet = quiet + 1 if used < SETTLED_CORES else 0
        before = now
    return time.monotonic() - begin


@dataclass
class OtherWork:
    """`share` of the machine that neither we nor what we started used."""

    share: float = 0.0


@contextmanager
def work_of_others() -> Iterator[OtherWork]:
    """What it gives is true afterwards."""
    others = OtherWork()
    begin, before, ours = time.monotonic(), _busy_seconds(), _our_seconds()
    yield others
    theirs = _busy_seconds() - before - (_our_seconds() - ours)
    others.share = max(0.0, theirs / (time.monotonic() - begin) / (os.cpu_count() or 1))


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait)


def _our_seconds() -> float:
    own = psutil.Process().cpu_times()
    return float(own.user + own.system) + sum(_cpu_seconds().values())


def tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text("utf-8", errors="replace").splitlines()[-lines:])


def _environment(bin_folder: Path, folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    return kept | {
        "PATH": f"{bin_folder}:{kept.get('PATH', '')}",
        "HF_HUB_OFFLINE": "1",
        "RAY_TMPDIR": str(folder),
        "RAY_raylet_start_wait_time_s": "120",
        "BENTOML_HOME": str(folder / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONUNBUFFERED": "1",
    }


def _wait_until_it_answers(server: Server, url: str, first: Any, process: "subprocess.Popen[str]", log: Path) -> None:
    give_up = time.monotonic() + READY_S
    told = "no answer"
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise ServerFailed(f"{server.name} ended with status {process.returncode}:\n{tail(log)}")
        try:
            reply = httpx.post(url, json=server.body(first), timeout=READY_S)
            if reply.status_code == 200:
                return
            told = f"{reply.status_code}: {reply.text[:200]}"
        except httpx.TransportError as failure:
            told = str(failure)
        time.sleep(0.25)
    raise ServerFailed(f"{server.name} did not get ready ({told}):\n{tail(log)}")


def _free_port() -> int:
    """Below those that the system hands out too: a connection on loopback could take one of these meanwhile."""
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", random.randrange(10_000, 20_000)))
            except OSError:
                continue
            port: int = probe.getsockname()[1]
            return port


def _adopt_orphans() -> None:
    """Processes whose parent ends become children of this one, so that none can be lost. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants() -> list[psutil.Process]:
    """Of this process."""
    found: list[psutil.Process] = psutil.Process().children(recursive=True)
    return found


@contextmanager
def suspended(processes: Iterable[psutil.Process]) -> Iterator[None]:
    """These processes and those that they have started stand still."""
    stopped = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            stopped += [process, *process.children(recursive=True)]
    try:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def _cpu_seconds() -> dict[int, float]:
    used = {}
    for process in descendants():
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        used[process.pid] = times.user + times.system
    return used


def _stop(process: "subprocess.Popen[str]") -> None:
    """Asks the server to end, then ends whatever is left of it."""
    left = descendants()
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    give_up = time.monotonic() + STOPPING_S
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOPPING_S)
    psutil.wait_procs(left, max(0.0, min(3.0, give_up - time.monotonic())))
    while left := descendants():
        for orphan in left:
            try:
                orphan.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, 5)
    process.wait()
