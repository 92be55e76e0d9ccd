"""What travels between the ingress and the replicas of a family. Imports neither torch nor Ray."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

from deployments.contract.types import Chunk, InferRequest, InferResponse
from deployments.repository.model import Model

Reply = Chunk | InferResponse
"""Any number of chunks, where they are wanted, then one response."""

OnChunk = Callable[[Chunk], None]
"""Takes the chunks of one call as they come. Never blocks, never raises."""

CALLS_UNDER_WAY = "calls_under_way"
"""The name under which Serve's autoscaling statistics count calls."""


class RoutingStats(TypedDict):
    """What a replica publishes to those that choose a replica."""

    models: list[str]
    """The names of the models in its memory."""
    free: float
    """The share of its memory that is free, in tenths: every change goes to every ingress."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request on its way to a family. `timeout_s` is what is left of its deadline when it is sent."""

    request: InferRequest
    request_id: str
    timeout_s: float
    model: Model | None = None
    """What the ingress found under the request's `model_id`; None for a family without models."""
    stream: bool = False
    """Whether chunks are wanted."""
    call_id: str = ""
    """Unique, unlike the request id, which the sender may choose."""
