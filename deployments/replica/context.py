"""This process as a replica of Serve: its name and its socket. Ray's private names stand here, of those that replicas
need; those of the ingress stand in serve_app.dispatch.serve_internals."""

import os
from pathlib import Path

from ray import serve
from ray.serve._private import constants
from ray.serve.exceptions import RayServeException

from deployments.replica.launcher_profile import LauncherProfile


def replica_name() -> str:
    """Serve's unique name of this replica; outside of Serve, the process."""
    return _replica_id() or f"pid-{os.getpid()}"


def launcher_profile() -> LauncherProfile | None:
    """None where Serve was not started by our launcher, or without the fast profile."""
    if not constants.RAY_SERVE_ENABLE_HA_PROXY:
        return None
    return LauncherProfile.found(constants.RAY_SERVE_HAPROXY_BINARY_PATH, constants.RAY_SERVE_HAPROXY_CONFIG_FILE_LOC)


def private_socket() -> Path | None:
    """Where this replica can be reached by the other processes of the runtime on this machine, past Serve.

    None without the fast profile, and outside of Serve.
    """
    profile, replica_id = launcher_profile(), _replica_id()
    return profile.socket(replica_id) if profile and replica_id else None


def _replica_id() -> str | None:
    try:
        return serve.get_replica_context().replica_id.unique_id
    except RayServeException:
        return None
