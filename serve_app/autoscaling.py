"""How many replicas a deployment gets. Run by Serve's controller."""

from typing import Any

from ray.serve.config import AutoscalingContext

from deployments.replica.calls import CALLS_UNDER_WAY

TOLERANCE = 0.1
"""A load that is so near to the target changes nothing, as in Kubernetes: 16 callers in turns are at times 16.1 calls,
and a second replica on the same cores only costs them (docs/dispatch.md)."""


def replicas_for_calls(context: AutoscalingContext) -> tuple[int | float, dict[str, Any]]:
    """One replica for each `target_ongoing_requests` calls under way; Serve keeps the bounds and the delays."""
    under_way = sum((context.aggregated_metrics or {}).get(CALLS_UNDER_WAY, {}).values())
    present = context.current_num_replicas
    if not present:
        # No replica reports a load; Serve counts the exchanges that wait for one.
        under_way = context.total_num_requests
    assert context.config is not None
    wanted = max(under_way / context.config.target_ongoing_requests, float(under_way > 0))
    if present and abs(wanted - present) <= TOLERANCE * present:
        wanted = present
    return wanted, context.policy_state
