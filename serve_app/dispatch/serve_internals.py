"""Ray Serve's private names that the application and its ingress need; those of replicas stand in
deployments.replica.context."""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

from ray.serve._private import constants
from ray.serve.handle import DeploymentHandle
from ray.serve.request_router import ReplicaID, RunningReplica

Replicas = Mapping[ReplicaID, RunningReplica]

replicas_of: Callable[[DeploymentHandle[Any]], Replicas] = attrgetter(
    "_router._asyncio_router._request_router.curr_replicas"
)
"""The replicas that a handle knows of; another mapping whenever something of them changes. Raises AttributeError before
the handle is connected. Serve has no public API for it."""


def by_value(handle: DeploymentHandle[Any]) -> DeploymentHandle[Any]:
    """Arguments travel in the call: for a request the object store costs more than copying it."""
    return handle.options(_by_reference=False)


def has_haproxy() -> bool:
    """Whether Serve runs with HAProxy in front."""
    return bool(constants.RAY_SERVE_ENABLE_HA_PROXY)
