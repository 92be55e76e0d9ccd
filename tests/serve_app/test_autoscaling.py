"""How many replicas a load needs."""

from typing import Any, cast

import pytest
from ray import cloudpickle
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from benchmarks.cluster.scaling import MOST, OURS, made
from benchmarks.cluster.simulation import compared
from deployments.replica.calls import BUSY, CALLS_QUEUED, CALLS_UNDER_WAY, PACE, QUEUED_S, units_waiting
from serve_app import autoscaling
from serve_app.autoscaling import ReplicasForWork, replicas_for_calls

SECONDS = 150.0


class Context:
    """Of Serve's context, what the policies read. `reported`: of all replicas together."""

    def __init__(self, present: int, **reported: float) -> None:
        self.app_name = "app"
        self.deployment_name = "Echo"
        self.current_num_replicas = present
        self.aggregated_metrics = {name: {0: value} for name, value in reported.items()}
        self.config = AutoscalingConfig(target_ongoing_requests=16)
        self.policy_state: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("present", "calls", "wanted"),
    [(1, 16, 1), (1, 16.1, 1), (1, 17, 1), (1, 20, 1.25), (2, 30, 2), (2, 16, 1), (1, 0, 0)],
)
def test_one_ingress_for_each_16_calls_and_none_for_a_tenth_more(present: int, calls: float, wanted: float) -> None:
    context = Context(present, **{CALLS_UNDER_WAY: calls})
    assert replicas_for_calls(cast(AutoscalingContext, context))[0] == wanted


@pytest.mark.parametrize(
    ("present", "queued_s", "queued", "busy", "calls", "wanted"),
    [
        (1, 2, 10, 1, 11, 1),  # as much as may wait
        (1, 6, 10, 1, 11, 3),
        (1, 0.5, 200, 1, 201, 1),  # many calls, but small ones
        (1, 600, 2, 1, 3, 3),  # few, but large ones: a call has one replica's time at most
        (3, 0, 0, 2.4, 3, 3),  # nothing waits, since there are three
        (3, 0, 0, 1.6, 3, 2),
        (2, 0, 0, 1, 1, 1),  # one caller who asks without a pause
        (3, 1, 4, 0, 0.5, 0.5),
        (1, 0, 0, 0, 0, 0),
        (0, 0, 0, 0, 0, 0),
    ],
)
def test_one_replica_for_each_two_seconds_of_work_that_wait_and_none_taken_away_that_is_needed(
    present: int, queued_s: float, queued: float, busy: float, calls: float, wanted: float
) -> None:
    reported = {QUEUED_S: queued_s, CALLS_QUEUED: queued, BUSY: busy, CALLS_UNDER_WAY: calls}
    policy = ReplicasForWork(target_queue_s=2)
    assert policy(cast(AutoscalingContext, Context(present, **reported)))[0] == pytest.approx(wanted)


def test_what_waits_in_an_ingress_for_a_replica_counts_by_the_pace_of_the_replicas() -> None:
    ingress = Context(1, **{CALLS_UNDER_WAY: 41, units_waiting("Echo"): 20, units_waiting("Other"): 1000})
    replicas_for_calls(cast(AutoscalingContext, ingress))
    family = Context(1, **{QUEUED_S: 1, CALLS_QUEUED: 1, PACE: 0.25, BUSY: 1, CALLS_UNDER_WAY: 2})
    try:
        assert ReplicasForWork(target_queue_s=2)(cast(AutoscalingContext, family))[0] == pytest.approx(3)
    finally:
        replicas_for_calls(cast(AutoscalingContext, Context(1)))


def test_policies_share_what_waits_in_the_ingress_although_serve_pickles_each_by_value() -> None:
    unpickled = []
    for policy in (replicas_for_calls, ReplicasForWork):
        cloudpickle.register_pickle_by_value(autoscaling)
        pickled = cloudpickle.dumps(policy)
        cloudpickle.unregister_pickle_by_value(autoscaling)
        unpickled.append(cloudpickle.loads(pickled))
    for_calls, for_work = unpickled
    for_calls(Context(1, **{CALLS_UNDER_WAY: 41, units_waiting("Echo"): 20}))
    family = Context(1, **{QUEUED_S: 1, CALLS_QUEUED: 1, PACE: 0.25, BUSY: 1, CALLS_UNDER_WAY: 2})
    try:
        assert for_work(target_queue_s=2)(family)[0] == pytest.approx(3)
    finally:
        for_calls(Context(1))


def test_in_bursts_half_as_many_answers_are_late_as_by_serves_default_in_no_more_replica_seconds() -> None:
    """In simulated time; `python -m benchmarks.cluster.scaling trace` measures it on a recorded trace."""
    runs = compared(made(SECONDS), SECONDS, OURS, MOST)
    default, ours = runs["Serve's default"], runs["ours"]
    assert ours.misses <= default.misses / 2
    assert ours.replica_seconds(SECONDS) <= default.replica_seconds(SECONDS)
