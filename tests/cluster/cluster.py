"""A Ray cluster started through the CLI as an operator starts one, with a token, ports and a folder of its own."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.support import PROJECT
from tests.support.ports import free_port
from tests.support.until import wait_until

BIN = Path(sys.executable).parent
PATIENCE_S = 240


@dataclass(frozen=True)
class Cluster:
    """The head's addresses, and an environment that holds its token."""

    env: dict[str, str]
    gcs: str
    dashboard: str
    http_port: int
    models: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def command(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs one of the environment's programs to its end. stdout holds stderr as well."""
        return subprocess.run(
            [str(BIN / words[0]), *words[1:]],
            env=self.env | env,
            cwd=self.env["HOME"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
        )

    def succeeds(self, *words: str) -> str:
        """The output of a command that must not fail."""
        done = self.command(*words)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def api(self, method: str, path: str) -> httpx.Response:
        """The dashboard's answer to a caller who has the token."""
        token = Path(self.env["HOME"], ".ray", "auth_token").read_text()
        headers = {"authorization": f"Bearer {token}"}
        return httpx.request(method, self.dashboard + path, headers=headers, timeout=30)

    def applications(self) -> dict[str, str]:
        """The status of each of Serve's applications, as the dashboard shows it."""
        reply = self.api("GET", "/api/serve/applications/")
        assert reply.status_code == 200, reply.text
        return {name: application["status"] for name, application in reply.json()["applications"].items()}

    def stop_serve(self) -> None:
        self.api("DELETE", "/api/serve/applications/").raise_for_status()
        wait_until(lambda: not self._serve_runs(), "Serve has stopped", PATIENCE_S)

    def _serve_runs(self) -> bool:
        details = self.api("GET", "/api/serve/applications/").raise_for_status().json()
        return bool(details["controller_info"] or details["applications"])


@contextmanager
def another_node(cluster: Cluster, cpus: int) -> Iterator[None]:
    """A second node of the cluster on this machine, until the block ends."""
    root = Path(cluster.env["HOME"])
    command = ["exec", "ray", "start", "--block", f"--address={cluster.gcs}", f"--num-cpus={cpus}"]
    options = [f"--object-store-memory={90 * 2**20}", f"--metrics-export-port={free_port()}"]
    options += [f"--dashboard-agent-listen-port={free_port()}"]
    with (root / "ray-start-2.log").open("w") as output:
        node = psutil.Popen(
            [str(BIN / "model-runtime"), *command, *options],
            env=cluster.env,
            cwd=root,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        started = [node, *node.children(recursive=True)]
        node.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(started, timeout=30)
        for process in alive:
            process.kill()
        node.wait()


@contextmanager
def started_cluster(models: Path) -> Iterator[Cluster]:
    """A head node, until the block ends. Then nothing that it started is left, or this fails."""
    # Short, since Ray's sockets lie in it and a socket's path ends at 107 bytes.
    root = Path(tempfile.mkdtemp(prefix="mr-", dir="/tmp"))
    gcs, dashboard, http = free_port(), free_port(), free_port()
    env = {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(root),
        "PYTHONPATH": str(PROJECT),
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    }
    cluster = Cluster(env, f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", http, models)
    cluster.succeeds("ray", "get-auth-token", "--generate")
    log = root / "ray-start.log"
    with log.open("w") as output:
        head = psutil.Popen(
            [
                *(
                    str(BIN / "model-runtime"),
                    "exec",
                    "ray",
                    "start",
                    "--head",
                    "--block",
                    "--num-cpus=8",
                    f"--object-store-memory={90 * 2**20}",
                ),
                *(f"--temp-dir={root}/ray", f"--port={gcs}", "--dashboard-host=127.0.0.1"),
                *(f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}"),
                *(f"--metrics-export-port={free_port()}", f"--ray-client-server-port={free_port()}"),
            ],
            env=env,
            cwd=root,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: _answers(cluster) or _ended(head, log), "the dashboard answers", PATIENCE_S)
        yield cluster
    finally:
        _stop(head, root)
    shutil.rmtree(root)


def _answers(cluster: Cluster) -> bool:
    try:
        return cluster.api("GET", "/api/version").status_code == 200
    except httpx.TransportError:
        return False


def _ended(head: psutil.Popen, log: Path) -> bool:
    assert head.poll() is None, log.read_text()
    return False


def _stop(head: psutil.Popen, root: Path) -> None:
    """Ends the head as its operator would, and whatever remains of it by force; fails if there was any."""
    started = {head, *_processes_in(root)}
    if head.poll() is None:
        started.update(head.children(recursive=True))
        head.send_signal(signal.SIGTERM)
    psutil.wait_procs(started, timeout=30)
    left = [process for process in {*started, *_processes_in(root)} if _runs(process)]
    told = [f"{process.pid} {process.name()}" for process in left]
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=10)
    assert not told, f"left behind: {told}"


def _processes_in(root: Path) -> set[psutil.Process]:
    """Whoever works in the cluster's folder, or was told of it: also those whose parent is gone."""
    return {process for process in psutil.process_iter() if _is_about(process, str(root))}


def _is_about(process: psutil.Process, root: str) -> bool:
    try:
        return process.cwd().startswith(root) or any(root in word for word in process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
