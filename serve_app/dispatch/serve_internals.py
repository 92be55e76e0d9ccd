"""Ray Serve's private names that the application and its ingress need; those of replicas stand in
deployments.replica.context."""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

from ray import serve
from ray._private.worker import WORKER_MODE, global_worker
from ray.serve._private import constants
from ray.serve._private.config import DeploymentConfig
from ray.serve.context import _get_global_client
from ray.serve.generated.serve_pb2 import DeploymentStatusInfo  # type: ignore[attr-defined] # made by protoc
from ray.serve.handle import DeploymentHandle
from ray.serve.request_router import ReplicaID, RunningReplica

Replicas = Mapping[ReplicaID, RunningReplica]

replicas_of: Callable[[DeploymentHandle[Any]], Replicas] = attrgetter(
    "_router._asyncio_router._request_router.curr_replicas"
)
"""The replicas that a handle knows of; another mapping whenever something of them changes. Raises AttributeError before
the handle is connected. Serve has no public API for it."""


def by_value(handle: DeploymentHandle[Any]) -> DeploymentHandle[Any]:
    """Arguments travel in the call: for a request the object store costs more than copying it.

    The handle works in the running event loop: a thread of its own would cost two switches a call.
    """
    if not handle.is_initialized:
        handle._init(_run_router_in_separate_loop=False)
    return handle.options(_by_reference=False)


def keep_version(deployment: serve.Deployment) -> serve.Deployment:
    """The deployment keeps its own version by `serve deploy` too. Serve would give every deployment of the application
    the hash of all its arguments, and replace all replicas with any change of them."""

    class OwnVersion(DeploymentConfig):
        def to_proto(self) -> Any:
            message = super().to_proto()  # type: ignore[no-untyped-call]
            message.version = deployment.version
            return message

    object.__setattr__(deployment._deployment_config, "__class__", OwnVersion)
    return deployment


async def message_about(handle: DeploymentHandle[Any]) -> str:
    """What Serve says of a deployment; empty where that is nothing. `serve.status` blocks. Raises RayError."""
    client = _get_global_client()
    assert client is not None
    asked = client._controller.get_deployment_status.remote(handle.deployment_name, handle.app_name)
    status: bytes | None = await asked
    return str(DeploymentStatusInfo.FromString(status).message) if status else ""


def missing_variables(max_body_bytes: int) -> list[str]:
    """What this node's Ray was started without. Serve reads it from the environment alone."""
    missing = []
    if constants.RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH is None:  # Callers could set Serve's control headers.
        missing.append("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH")
    if max_body_bytes >= constants.RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH:
        missing.append("RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH")
    return missing


def in_worker() -> bool:
    """Whether this process is one that Ray started: its environment is that of the cluster's node."""
    return bool(global_worker.mode == WORKER_MODE)
