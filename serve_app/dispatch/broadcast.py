"""Calls to the replicas of a deployment beside its requests: to all of them, or to any one."""

import asyncio
import logging
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle

logger = logging.getLogger("model_runtime.dispatch")

CONTROL_TIMEOUT_S = 5.0
LOST = (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError)
"""What a handle raises where the replica has ended."""


async def broadcast(
    handle: DeploymentHandle[Any], method: str, *arguments: object, timeout_s: float = CONTROL_TIMEOUT_S
) -> list[Any]:
    """What each replica answers. A replica that is being stopped raises, and is left out."""
    try:
        asked = handle.broadcast(method, *arguments)
        answers = await asked.results_async(timeout_s=timeout_s, return_exceptions=True)
    except (TimeoutError, RayServeException) as failure:
        logger.warning("%s of %s: %s", method, handle.deployment_name, type(failure).__name__)
        return []
    for answer in answers:
        if isinstance(answer, RayTaskError):  # not lost, but at fault
            logger.warning("%s of %s: %s", method, handle.deployment_name, answer.cause)
    return [answer for answer in answers if not isinstance(answer, Exception)]


async def is_ready(handle: DeploymentHandle[Any]) -> bool:
    """Whether the deployment has a replica that can answer."""
    try:
        async with asyncio.timeout(CONTROL_TIMEOUT_S):
            ready: bool = await handle.ready.remote()
    except (TimeoutError, BackPressureError, *LOST):
        return False
    return ready
