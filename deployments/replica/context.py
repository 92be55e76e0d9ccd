"""Where this process stands in Serve."""

import os
from pathlib import Path

from ray import serve
from ray.serve._private import constants
from ray.serve.exceptions import RayServeException


def replica_name() -> str:
    """Serve's unique name of this replica; outside of Serve, the process."""
    try:
        return serve.get_replica_context().replica_id.unique_id
    except RayServeException:
        return f"pid-{os.getpid()}"


HAPROXY = "model-runtime-haproxy"


def private_socket() -> Path | None:
    """Where this replica can be reached by the other processes of the runtime on this machine, past Serve.

    In the folder that the fast profile made for this runtime alone; None without the profile, and outside of Serve.
    """
    if not constants.RAY_SERVE_ENABLE_HA_PROXY or Path(constants.RAY_SERVE_HAPROXY_BINARY_PATH).name != HAPROXY:
        return None
    try:
        replica_id = serve.get_replica_context().replica_id.unique_id
    except RayServeException:
        return None
    return sibling_socket(replica_id)


def sibling_socket(replica_id: str) -> Path:
    return Path(constants.RAY_SERVE_HAPROXY_CONFIG_FILE_LOC).parent / f"{replica_id}.sock"
