"""`model-runtime serve` as a process, its parts by name, and callers who try again."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from tests.support import PROJECT
from tests.support.until import wait_until

START_S = 240.0
RETRY_AFTER_S = (2.0, 5.0)
"""What a client that retries does: once more after each of these times."""
CALLERS = 4
PARTS = {
    "controller": "ray::ServeController",
    "ingress": "ray::ServeReplica:model-runtime:Ingress",
    "registry": "ray::ModelRegistryActor",
    "aggregator": "ray::MetricsAggregator",
    "dashboard agent": "ray::DashboardAgent",
    "runtime env agent": "ray::RuntimeEnvAgent",
    "text replica": "ray::ServeReplica:model-runtime:TextGeneration",
    "image replica": "ray::ServeReplica:model-runtime:ImageClassification",
    "haproxy": "haproxy",
    "gcs_server": "gcs_server",
    "raylet": "raylet",
}


@dataclass
class Served:
    """A running runtime."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def part(self, name: str) -> psutil.Process | None:
        """A living process of this part: one of several."""
        return next(self.parts(name), None)

    def parts(self, name: str) -> Iterator[psutil.Process]:
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                line = " ".join(process.cmdline()[:1]) if name != "haproxy" else process.name()
            except psutil.Error:
                continue
            if line.endswith(PARTS[name]) or line.startswith(PARTS[name]):
                yield process

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10).is_success
        except httpx.TransportError:
            return False


@contextmanager
def serving(folder: Path, port: int, models: Path | None, configuration: str) -> Iterator[Served]:
    """Until the end of the block. Afterwards nothing of it is left."""
    (folder / "runtime.yaml").write_text(configuration)
    log = folder / "serve.log"
    command = [sys.executable, "-m", "serve_app.cli.main", "serve", "--port", str(port)]
    command += ["--config", str(folder / "runtime.yaml")]
    command += ["--models", str(models)] if models else []
    with log.open("w") as sink:
        process = subprocess.Popen(command, cwd=PROJECT, stdout=sink, stderr=sink, text=True, start_new_session=True)
    served = Served(process, f"http://127.0.0.1:{port}", log)
    try:
        wait_until(lambda: "is ready after" in log.read_text() or _ended(served), "it is ready", START_S)
        started = psutil.Process(process.pid).children(recursive=True)
        yield served
        started += psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        _, alive = psutil.wait_procs(started, timeout=30)
        assert [one.cmdline() for one in alive] == []
    finally:
        process.kill()
        process.wait()


def _ended(served: Served) -> bool:
    assert served.process.poll() is None, served.log.read_text()
    return False


@contextmanager
def calling(call: Callable[[], None], count: int, over: threading.Event) -> Iterator[None]:
    """So many threads call until `over` is set, at the end of the block."""
    callers = [threading.Thread(target=call, daemon=True) for _ in range(count)]
    for caller in callers:
        caller.start()
    try:
        yield
    finally:
        over.set()
        for caller in callers:
            caller.join()


@dataclass
class Load:
    """Callers who send one request after the other. Each request is tried again after 2 s, and after 5 s more."""

    url: str
    body: dict[str, object]
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    """Requests that all tries failed."""
    refused: int = 0
    """Tries that failed: refused, cut, or with a retryable error."""
    wrong: int = 0
    """Texts, or labels, other than the first."""
    longest_s: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)
    _first: object = None

    @contextmanager
    def running(self) -> Iterator["Load"]:
        with calling(self._call, CALLERS, self._over):
            yield self

    def _call(self) -> None:
        with httpx.Client(timeout=70) as client:
            while not self._over.is_set():
                begun = time.monotonic()
                reasons = list(self._tries(client))
                self.refused += len(reasons)
                if len(reasons) > len(RETRY_AFTER_S):
                    self.failed.append(reasons[-1])
                self.longest_s = max(self.longest_s, time.monotonic() - begun)

    def _tries(self, client: httpx.Client) -> Iterator[str]:
        """Why each try failed, until one succeeds."""
        for pause_s in (0.0, *RETRY_AFTER_S):
            if pause_s and self._over.wait(pause_s):
                return
            try:
                reply = client.post(f"{self.url}/infer", json=self.body)
            except httpx.TransportError as failure:
                yield type(failure).__name__
                continue
            ((_, answer),) = reply.json().items()
            if reply.is_success:
                self.answered += 1
                said = answer.get("generated_text", answer.get("class_labels"))
                self._first = self._first or said
                self.wrong += said != self._first
                return
            if not answer["retryable"]:
                self.failed.append(f"{reply.status_code} {answer['message']}")
                return
            yield f"{reply.status_code} {answer['message']}"


def kill(process: psutil.Process) -> float:
    """By SIGKILL. Returns when, on the clock of time.monotonic."""
    os.kill(process.pid, signal.SIGKILL)
    return time.monotonic()
