"""Where this process stands in Serve."""

import os

from ray import serve
from ray.serve.exceptions import RayServeException


def replica_name() -> str:
    """Serve's unique name of this replica; outside of Serve, the process."""
    try:
        return serve.get_replica_context().replica_id.unique_id
    except RayServeException:
        return f"pid-{os.getpid()}"
