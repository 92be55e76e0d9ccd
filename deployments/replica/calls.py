"""What travels between the ingress and the replicas of a family. Imports neither torch nor Ray."""

import asyncio
import enum
import math
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypedDict

from deployments.contract.chunk import Chunk
from deployments.contract.types import InferRequest, InferResponse
from deployments.repository.model import Model

Reply = Chunk | InferResponse
"""Any number of chunks, where they are wanted, then one response."""

OnChunk = Callable[[Chunk], None]
"""Takes the chunks of one call as they come. Never blocks, never raises."""


class Progress(enum.Enum):
    """Where a call stands. A replica reports it only while one of its calls is to be alone."""

    SENT = "sent"
    HELD = "held"
    """It waits: another one is alone, or waits for that."""
    ALONE = "alone"
    """It is computed, and no other is."""


class Stations(TypedDict, total=False):
    """Where a call's time went in its replica, seconds. A station that it did not come to, or pass, is absent."""

    load_s: float
    """From its arrival until its model was in memory, golden examples answered."""
    preprocess_s: float
    """To decode its input, where that is done apart. A part of `compute_s`."""
    first_token_s: float
    """Of a text: from the engine's having it to its first token. A part of `compute_s`."""
    compute_s: float
    """From having the model in memory to the answer."""
    batch_size: int
    """How many shared its forward, of several the most."""


News = Progress | Stations
OnNews = Callable[[News], None]

CALLS_UNDER_WAY = "calls_under_way"
"""The name under which Serve's autoscaling statistics count calls."""
QUEUED_S, CALLS_QUEUED, PACE, BUSY = "queued_s", "calls_queued", "pace", "busy"
"""The names of what Workload reports."""


class ReplicaLost(Exception):
    """The replica ended, or its connection did, before the response came. `crash`: what it reported of its crash."""

    def __init__(self, crash: str = "") -> None:
        super().__init__()
        self.crash = crash


def units_waiting(deployment: str) -> str:
    """The name under which an ingress's statistics have the work that waits in it for a deployment."""
    return f"units_waiting_for_{deployment}"


stations: ContextVar[Stations | None] = ContextVar("stations", default=None)
"""Of the call that a task is for."""


class RoutingStats(TypedDict):
    """What a replica publishes by Serve."""

    address: tuple[str, int] | None
    """Where other nodes reach it past Serve."""


@dataclass(frozen=True)
class Holdings:
    """What a replica reports to every connected ingress, when it connects and with each change."""

    models: frozenset[str] = frozenset()
    """The names of those in its memory, or being loaded."""
    free: float = 1.0
    """The share of its memory that is free, in hundredths."""


@dataclass(frozen=True)  # Without slots, which would be pickled by Python code, with every request.
class Call:
    """One request on its way to a family.

    `timeout_s` is what is left, when it is sent, of the time until its response, or until the first chunk of a stream.
    """

    request: InferRequest
    request_id: str
    timeout_s: float
    model: Model | None = None
    """What the ingress found under the request's `model_id`; None for a family without models."""
    stream: bool = False
    """Whether chunks are wanted."""
    call_id: str = ""
    """Unique, unlike the request id, which the sender may choose."""
    silence_s: float | None = None
    """Of a stream: how long it may be silent from its first chunk on."""
    total_s: float = math.inf
    """Of a stream: what is left of the time that its caller gives it as a whole."""
    alone: bool = False
    """Whether nothing else may be computed in the replica meanwhile."""


@dataclass(slots=True)
class TimeLimit:
    """Until when a call may go on, on the loop's clock. Each chunk of a stream puts that off, to `ends_at` at most."""

    at: float
    ends_at: float
    silence_s: float | None = None
    """None: nothing puts it off."""
    timeout: asyncio.Timeout | None = None
    """What ends the work under way."""

    def put_off_by(self, on_chunk: OnChunk) -> OnChunk:
        """`on_chunk`, with each chunk putting the limit off."""

        def came(chunk: Chunk) -> None:
            self.put_off()
            on_chunk(chunk)

        return came

    def put_off(self) -> None:
        """A chunk came."""
        if self.silence_s is not None:
            self.at = min(asyncio.get_running_loop().time() + self.silence_s, self.ends_at)
            if self.timeout is not None:
                with suppress(RuntimeError):  # It is over: the chunk was on its way when the call ended.
                    self.timeout.reschedule(self.at)
