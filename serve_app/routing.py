"""Which replica gets an exchange: one that holds the model, until it is busy; then the model spreads to another.

Run by Serve in the process of whoever calls the handle. Replicas publish what they hold and whether they are busy by
`record_routing_stats`, a second late; what this router sent where is known at once.
"""

import time
from collections.abc import Sequence
from typing import Any

from ray.serve._private.common import ReplicaID
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve._private.request_router.request_router import RequestRouter

from deployments.calls import Call
from deployments.family import BUSY, FREE, MODELS

SENT_LATELY_S = 10.0
SWEEP_SENT = 4096


class ResidentFirst(RequestRouter):
    """Calls that carry no model go to the replica with the fewest exchanges under way."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._sent: dict[str, dict[ReplicaID, float]] = {}
        """By model: when it was last sent to a replica that may not tell of it yet."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Replicas in the order in which they are tried; in each list the least busy one is."""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
        model = model_of(pending_request)
        if model is None or len(candidate_replicas) == 1:
            return [candidate_replicas]
        ranks: dict[tuple[bool, bool], list[RunningReplica]] = {}
        for replica in candidate_replicas:
            busy = bool((replica.routing_stats or {}).get(BUSY))
            ranks.setdefault((busy, not self._holds(replica, model)), []).append(replica)
        roomy_first = sorted(ranks.get((False, True), []), key=self._room, reverse=True)
        idle_with, busy_with, busy_without = (ranks.get(key) for key in ((False, False), (True, False), (True, True)))
        order = (idle_with, *([replica] for replica in roomy_first), busy_with, busy_without)
        return [rank for rank in order if rank]

    def _holds(self, replica: RunningReplica, model: str) -> bool:
        sent = self._sent.get(model, {}).get(replica.replica_id, -SENT_LATELY_S)
        return model in (replica.routing_stats or {}).get(MODELS, ()) or time.monotonic() - sent < SENT_LATELY_S

    def _room(self, replica: RunningReplica) -> float:
        """The share of its memory that is free, less a tenth for each model on its way there."""
        stats, now = replica.routing_stats or {}, time.monotonic()
        held = stats.get(MODELS, ())
        coming = sum(
            now - replicas.get(replica.replica_id, -SENT_LATELY_S) < SENT_LATELY_S
            for model, replicas in self._sent.items()
            if model not in held
        )
        return float(stats.get(FREE, 1.0)) - coming / 10

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        model = model_of(pending_request)
        if model is not None and len(self._replicas) > 1:
            if len(self._sent) >= SWEEP_SENT:
                self._sent.clear()
            self._sent.setdefault(model, {})[replica_id] = time.monotonic()


def model_of(pending_request: PendingRequest | None) -> str | None:
    """The one model that all calls of an exchange are for."""
    calls: Sequence[Any] = pending_request.args[0] if pending_request and pending_request.args else ()
    first = calls[0] if isinstance(calls, list | tuple) and calls else None
    return first.model.name if isinstance(first, Call) and first.model else None
