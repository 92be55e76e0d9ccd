"""How many replicas a deployment gets. Run by Serve's controller."""

from typing import Any

from ray.serve.config import AutoscalingContext

from deployments.replica import CALLS_UNDER_WAY


def replicas_for_calls(context: AutoscalingContext) -> tuple[int | float, dict[str, Any]]:
    """One replica for each `target_ongoing_requests` calls under way; Serve keeps the bounds and the delays."""
    under_way = sum((context.aggregated_metrics or {}).get(CALLS_UNDER_WAY, {}).values())
    if not context.current_num_replicas:
        # None that could say; Serve knows of exchanges that wait.
        under_way = context.total_num_requests
    assert context.config is not None
    target = context.config.target_ongoing_requests
    return max(under_way / target, float(under_way > 0)), context.policy_state
