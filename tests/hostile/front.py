"""HAProxy with the configuration that Serve generates and `model-runtime-haproxy` rewrites, in front of the routes.

Starts no Ray.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from deployments.replica.launcher_profile import LauncherProfile
from serve_app.config.config import IngressSettings, RuntimeConfig
from serve_app.http.haproxy import BUFFER_BYTES, IDLE_CONNECTION_S, MAX_CONNECTIONS, haproxy_binary, haproxy_environment
from serve_app.http.haproxy_config import adapted
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


def configuration(folder: Path, port: int, server_port: int) -> Path:
    """Serve's own template for one application, rewritten."""
    haproxy_environment(folder, CONFIG)
    file = folder / "haproxy.cfg"
    api = HAProxyApi(
        HAProxyConfig(
            socket_path=str(folder / "admin.sock"),
            server_state_base=str(folder),
            server_state_file=str(folder / "state"),
            enable_hap_optimization=False,
            maxconn=MAX_CONNECTIONS,
            nbthread=1,
            stats_port=free_port(),
            metrics_port=free_port(),
            timeout_client_s=IDLE_CONNECTION_S,
            timeout_server_s=75,
            bufsize=BUFFER_BYTES,
            has_received_routes=True,
            has_received_servers=True,
            http_options=HTTPOptions(host="127.0.0.1", port=port),
            metrics_enabled=False,
            is_head=True,
        ),
        {
            "app": BackendConfig(
                name="app", path_prefix="/", servers=[ServerConfig("one", "127.0.0.1", server_port)], app_name="app"
            )
        },
        str(file),
    )
    api._generate_config_file_internal()
    # Serve's health check has no route without Serve.
    configuration = adapted(file.read_text(), folder, LauncherProfile(folder))
    file.write_text(configuration.replace("GET /-/healthz", "GET /healthz"))
    return file


@contextmanager
def running(folder: Path) -> Iterator[Front]:
    port, server_port = free_port(), free_port()
    program = haproxy_binary()
    assert program is not None
    file = configuration(folder, port, server_port)
    server = subprocess.Popen([sys.executable, "-m", "tests.hostile.server", str(server_port)])
    log = folder / "haproxy.log"
    with log.open("wb") as sink:
        proxy = subprocess.Popen([program, "-db", "-f", str(file)], stdout=sink, stderr=sink)
    try:
        wait_until(lambda: _answers(port) or _ended(proxy, server, log), "HAProxy and the server behind it answer")
        yield Front(port, server_port, {"haproxy": proxy.pid, "server": server.pid})
    finally:
        for process in (proxy, server):
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def _ended(proxy: subprocess.Popen[bytes], server: subprocess.Popen[bytes], log: Path) -> bool:
    assert proxy.poll() is None, log.read_text()
    assert server.poll() is None
    return False
