"""Turns exceptions into the contract's `Error`. Imports neither torch nor Ray."""

import logging

from deployments.contract.errors import DeadlineExceeded, Internal, ServingError
from deployments.contract.types import Error

logger = logging.getLogger("model_runtime")


def error_of(cause: Exception, request_id: str) -> Error:
    """The answer to a failed request. An unexpected exception is logged under the request id and becomes `internal`."""
    if isinstance(cause, ServingError):
        return Error.of(cause, request_id)
    if isinstance(cause, TimeoutError):
        return Error.of(DeadlineExceeded("no answer within the deadline"), request_id)
    logger.error("request %s failed", request_id, exc_info=cause, extra={"request_id": request_id})
    return Error.of(Internal("internal error; the reason is in the log under this request id"), request_id)
