"""How many replicas a deployment gets. Run by Serve's controller, which keeps the bounds and the delays."""

from typing import Any

from ray.serve.config import AutoscalingContext

from deployments.replica.calls import BUSY, CALLS_QUEUED, CALLS_UNDER_WAY, PACE, QUEUED_S, units_waiting

TOLERANCE = 0.1
"""A load that is so near to the target changes nothing, as in Kubernetes: 16 callers in turns are at times 16.1 calls,
and a second replica on the same cores only costs them (docs/dispatch.md)."""
BUSY_SHARE = 0.8
"""Fewer replicas would have to do with so much of their time: else they would soon be more again."""

Wanted = tuple[float, dict[str, Any]]

_INGRESS: dict[str | None, AutoscalingContext] = {}
"""By application. Serve has policies over several deployments for configuration files alone; all run in one process."""


def _ingress_contexts() -> dict[str | None, AutoscalingContext]:
    """Serve pickles the module of each policy by value, so every policy has globals of its own: the imported module is
    the one that they share."""
    from serve_app import autoscaling

    return autoscaling._INGRESS


def replicas_for_calls(context: AutoscalingContext) -> Wanted:
    """Of the ingress: one replica for each `target_ongoing_requests` calls under way."""
    _ingress_contexts()[context.app_name] = context
    present = context.current_num_replicas
    assert context.config is not None
    wanted = sum(_reported(context, CALLS_UNDER_WAY)) / context.config.target_ongoing_requests
    if abs(wanted - present) <= TOLERANCE * present:
        wanted = present
    return wanted, context.policy_state


class ReplicasForWork:
    """Of a family: one replica for each `target_queue_s` seconds of work that wait, in replicas or for one, and none
    taken away whose time the others could not make up for. The first one of a family that has none is Serve's rule."""

    def __init__(self, target_queue_s: float) -> None:
        self.target_queue_s = target_queue_s

    def __call__(self, context: AutoscalingContext) -> Wanted:
        present = context.current_num_replicas
        paces = [pace for pace in _reported(context, PACE) if pace] or [0.0]
        ingress = _ingress_contexts().get(context.app_name)
        units = sum(_reported(ingress, units_waiting(context.deployment_name))) if ingress else 0.0
        wanted = (sum(_reported(context, QUEUED_S)) + units * sum(paces) / len(paces)) / self.target_queue_s
        if wanted <= present * (1 + TOLERANCE):
            needed = max(wanted, sum(_reported(context, BUSY)) / BUSY_SHARE)
            wanted = min(present, needed, sum(_reported(context, CALLS_UNDER_WAY)))
        elif not units:  # A call has one replica's time, not more.
            wanted = min(wanted, present + sum(_reported(context, CALLS_QUEUED)))
        return wanted, context.policy_state


def _reported(context: AutoscalingContext, metric: str) -> list[float]:
    """By each replica."""
    return list((context.aggregated_metrics or {}).get(metric, {}).values())
