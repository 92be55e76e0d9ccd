"""What travels between the ingress and the replicas of a family. Imports neither torch nor Ray."""

from collections.abc import Callable
from dataclasses import dataclass

from deployments.contract.types import Chunk, InferRequest, InferResponse
from deployments.repository.model import Model

Reply = Chunk | InferResponse
"""Any number of chunks, where they are wanted, then one response."""

OnChunk = Callable[[Chunk], None]
"""Takes the chunks of one call as they come. Never blocks, never raises."""


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
