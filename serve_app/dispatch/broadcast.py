"""Asking all replicas of a deployment at once."""

import logging
from typing import Any

from ray.exceptions import RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

logger = logging.getLogger("model_runtime.dispatch")

CONTROL_TIMEOUT_S = 5.0


async def broadcast(
    handle: DeploymentHandle[Any], method: str, *arguments: object, timeout_s: float = CONTROL_TIMEOUT_S
) -> list[Any]:
    """What each replica answers. One on its way out raises, and is left out."""
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
