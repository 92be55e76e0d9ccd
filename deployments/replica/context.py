"""This process as a replica of Serve: its name, its socket, its node.

Ray's private names stand here, of those that replicas need; those of the ingress stand in
serve_app.dispatch.serve_internals.
"""

import fcntl
import itertools
import logging
import os
import secrets
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.experimental import internal_kv
from ray.serve._private import constants
from ray.serve.exceptions import RayServeException

from deployments.replica.handshake import ClusterNetwork
from deployments.replica.launcher_profile import LauncherProfile

logger = logging.getLogger("ray.serve")  # Whose lines Ray keeps.

_SECRET = b"model-runtime-secret"
PEERS_TIMEOUT_S = 5.0
_places: dict[Path, int] = {}
"""The locks of the places that this process has."""


def replica_name() -> str:
    """Serve's unique name of this replica; outside of Serve, the process."""
    return _replica_id() or f"pid-{os.getpid()}"


def launcher_profile() -> LauncherProfile | None:
    """None where Serve was not started by our launcher, or without the fast profile."""
    return LauncherProfile.found(constants.RAY_SERVE_HAPROXY_BINARY_PATH, constants.RAY_SERVE_HAPROXY_CONFIG_FILE_LOC)


def private_socket() -> Path | None:
    """Where this replica can be reached by the other processes of the runtime on this machine, past Serve.

    None without the fast profile, and outside of Serve.
    """
    profile, replica_id = launcher_profile(), _replica_id()
    return profile.socket(replica_id) if profile and replica_id else None


def crash_file() -> Path | None:
    """Where this replica reports its own crash to the ingresses of this machine. None where `private_socket` is."""
    profile, replica_id = launcher_profile(), _replica_id()
    return profile.crash_file(replica_id) if profile and replica_id else None


def alone_file(call_id: str) -> Path | None:
    """The file that marks that this replica computes nothing else. None where `private_socket` is."""
    profile = launcher_profile()
    return profile.alone_file(call_id) if profile and _replica_id() else None


def cluster_network() -> ClusterNetwork | None:
    """How replicas and ingresses on different nodes reach each other past Serve.

    None outside of Serve, where all of the cluster is this machine and has Unix sockets, and where Ray's own traffic is
    encrypted: ours would not be.
    """
    if _replica_id() is None:
        return None
    host = ray.util.get_node_ip_address()
    if launcher_profile() and ip_address(host).is_loopback:
        return None
    if "RAY_USE_TLS" in os.environ:
        logger.warning("RAY_USE_TLS: calls between nodes take Serve's handle, which is encrypted, and slower")
        return None
    return ClusterNetwork(host, cluster_secret())


def cluster_secret() -> bytes:
    """The secret of this cluster, the same for each of its processes. Whoever may run code in the cluster can read it,
    as Ray's token decides, and nobody else."""
    internal_kv._internal_kv_put(_SECRET, secrets.token_hex(32).encode(), overwrite=False)
    secret: bytes = internal_kv._internal_kv_get(_SECRET)
    return secret


async def asked_of_peers(method: str) -> list[Any]:
    """What the other replicas of this deployment answer that take requests. Empty outside of Serve."""
    if _replica_id() is None:
        return []
    own = serve.get_replica_context()
    handle = serve.get_deployment_handle(own.deployment, own.app_name)
    try:
        answers = await handle.broadcast(method).results_async(timeout_s=PEERS_TIMEOUT_S, return_exceptions=True)
    except (RayServeException, RayError, TimeoutError):  # There is none, or it ends.
        return []
    return [answer for answer in answers if not isinstance(answer, Exception)]


def ingress_socket() -> Path | None:
    """Where HAProxy finds this ingress replica: by its id if Serve starts HAProxy, else at the first place that no
    other process has. The place is kept until the process ends."""
    profile, replica_id = launcher_profile(), _replica_id()
    if profile is None or replica_id is None or constants.RAY_SERVE_ENABLE_HA_PROXY:
        return private_socket()
    return taken_place(profile)


def taken_place(profile: LauncherProfile) -> Path:
    """The socket of the first place that is free. Takes it until `leave_place`, or the end of the process."""
    for place in itertools.count():
        path = profile.ingress_socket(place)
        lock = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            _places[path] = lock
            return path
    raise AssertionError  # there is always another number


def leave_place(path: Path) -> None:
    """Another process may have the place."""
    if (lock := _places.pop(path, None)) is not None:
        os.close(lock)


def _replica_id() -> str | None:
    try:
        return serve.get_replica_context().replica_id.unique_id
    except RayServeException:
        return None
