"""The error that a caller gets for a step that failed."""

import logging

import torch

from deployments.contract.errors import Internal, OutOfMemory, ServingError

log = logging.getLogger(__name__)


def as_serving_error(failure: Exception) -> ServingError:
    """Hides the cause from callers, and logs it."""
    if isinstance(failure, ServingError):
        return failure
    log.error("a step failed", exc_info=failure)
    text = str(failure).lower()
    if isinstance(failure, MemoryError | torch.OutOfMemoryError) or "allocate memory" in text:
        return OutOfMemory("there is not enough memory for this request")
    return Internal("the model failed on this request")
