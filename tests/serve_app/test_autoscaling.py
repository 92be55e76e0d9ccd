"""How many replicas a load needs."""

from typing import Any, cast

import pytest
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from deployments.replica.calls import CALLS_UNDER_WAY
from serve_app.autoscaling import replicas_for_calls


class Context:
    """Of Serve's context, what the policy reads."""

    def __init__(self, present: int, calls: float) -> None:
        self.current_num_replicas = present
        self.aggregated_metrics = {CALLS_UNDER_WAY: dict.fromkeys(range(present), calls / max(present, 1))}
        self.total_num_requests = calls
        self.config = AutoscalingConfig(target_ongoing_requests=16)
        self.policy_state: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("present", "calls", "wanted"),
    [(1, 16, 1), (1, 16.1, 1), (1, 17, 1), (1, 20, 1.25), (2, 30, 2), (2, 16, 1), (1, 0, 0), (0, 3, 1)],
)
def test_one_replica_for_each_16_calls_and_none_for_a_tenth_more(present: int, calls: float, wanted: float) -> None:
    assert replicas_for_calls(cast(AutoscalingContext, Context(present, calls)))[0] == wanted
