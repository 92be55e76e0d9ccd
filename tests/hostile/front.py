"""HAProxy as `model-runtime serve` starts it, in front of the routes.

Starts no Ray.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from deployments.replica.launcher_profile import LauncherProfile
from serve_app.config.config import IngressSettings, RuntimeConfig
from serve_app.front.front import Front as ServedFront
from tests.support.ports import free_port
from tests.support.until import wait_until

CONFIG = RuntimeConfig(ingress=IngressSettings(max_body_mb=1))


@dataclass(frozen=True)
class Front:
    """A running HAProxy and the server behind it."""

    port: int
    direct_port: int
    processes: dict[str, int]
    """Process ids: haproxy, server."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def reached(self, what: str) -> int:
        """A count of the server: `under_way` or `listed`."""
        metrics = httpx.get(f"http://127.0.0.1:{self.direct_port}/metrics").text
        return int(dict(line.split() for line in metrics.splitlines())[what])


@contextmanager
def running(folder: Path) -> Iterator[Front]:
    port, server_port = free_port(), free_port()
    socket = LauncherProfile(folder).ingress_socket(0)
    server = subprocess.Popen([sys.executable, "-m", "tests.hostile.server", str(server_port), str(socket)])
    proxy = ServedFront(CONFIG, port, folder)
    try:
        proxy.start()
        assert proxy.pid is not None
        wait_until(lambda: _answers(port) or _ended(proxy, server), "HAProxy and the server behind it answer")
        yield Front(port, server_port, {"haproxy": proxy.pid, "server": server.pid})
    finally:
        proxy.close()
        server.kill()
        server.wait()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def _ended(proxy: ServedFront, server: subprocess.Popen[bytes]) -> bool:
    assert proxy.running, proxy.keep_running()
    assert server.poll() is None
    return False
