"""`python -m benchmarks.cluster.simulation trace|burst|nodes`: what many machines would do, in simulated time.

`trace`, `burst`: those of `scaling`. The policy, what replicas count, and Serve's delays are the real ones; replicas,
the queue before them and the clock are simulated, with the measured time that a replica takes to start. `nodes`: one
replica and ten models a node, asked for by Zipf's law, behind the real choice of a replica: how often models are
loaded, and what the choice takes.
"""

import argparse
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ray.serve.autoscaling_policy import _apply_delay_logic
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from benchmarks.cluster.scaling import (
    BURST,
    MOST,
    OURS,
    SLO_S,
    SLOTS,
    Arrival,
    Run,
    burst_of,
    draw,
    made,
    print_burst,
    read,
)
from deployments.contract.settings import Autoscaling
from deployments.replica.calls import CALLS_UNDER_WAY, units_waiting
from deployments.replica.replica import Workload
from serve_app.app import _autoscaling
from serve_app.autoscaling import ReplicasForWork, replicas_for_calls
from serve_app.dispatch.admission import GROWS_WITHIN_S, STANDING
from tests.serve_app.dispatch.simulated import Simulation, zipf

TICK_S = 0.02
CONTROL_S = 0.4
STARTS_IN_S = 2.8
SERVES_SLOTS = 5

Wanted = Callable[[AutoscalingContext], tuple[float, dict[str, Any]]]


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class _Replica:
    clock: Callable[[], float]
    ready_at: float
    calls: deque[tuple[Arrival, float, ExitStack]] = field(default_factory=deque)
    """First come first served: what, when it came, and its place in the workload."""
    ends_at: float = math.inf
    leaving: bool = False

    def __post_init__(self) -> None:
        self.workload = Workload(clock=self.clock)
        self.samples: deque[tuple[float, dict[str, float]]] = deque(maxlen=100)

    def take(self, arrival: Arrival, came: float) -> None:
        stack = ExitStack()
        stack.enter_context(self.workload.job("", 1.0))
        self.calls.append((arrival, came, stack))
        if len(self.calls) == 1:
            self.ends_at = self.clock() + arrival.takes_ms / 1e3

    def finish(self) -> tuple[Arrival, float]:
        arrival, came, stack = self.calls.popleft()
        stack.close()
        self.ends_at = self.clock() + self.calls[0][0].takes_ms / 1e3 if self.calls else math.inf
        return arrival, came

    def sample(self) -> None:
        self.samples.append((self.clock(), {CALLS_UNDER_WAY: float(len(self.calls))} | self.workload.report()))


class _Context:
    """Of Serve's context, what the policies read."""

    def __init__(self, replicas: Sequence[_Replica], config: AutoscalingConfig, since: float, waiting: float) -> None:
        self.app_name, self.deployment_name = "simulated", "Paced"
        self.config, self.policy_state = config, dict[str, Any]()
        self.current_num_replicas = len(replicas)
        self.aggregated_metrics: dict[str, dict[int, float]] = {}
        for number, replica in enumerate(replicas):
            seen = [report for at, report in replica.samples if at >= since]
            for name in seen[0] if seen else ():
                mean = sum(report[name] for report in seen) / len(seen)
                self.aggregated_metrics.setdefault(name, {})[number] = mean
        self.total_num_requests = waiting + sum(len(replica.calls) for replica in replicas)


def simulated(
    arrivals: Sequence[Arrival],
    seconds: float,
    policy: Wanted,
    config: AutoscalingConfig,
    slots: int,
    most: int,
    refuses: bool,
) -> Run:
    """`refuses`: as admission does once no further replica comes."""
    now, clock, run, state = 0.0, _Clock(), Run(), dict[str, Any]()
    queue: deque[tuple[Arrival, float]] = deque()
    due, target = deque(arrivals), config.min_replicas
    waiting_since, began_with = 0.0, 0
    waited: deque[float] = deque(maxlen=max(1, round(5 / CONTROL_S)))
    replicas = [_Replica(clock, 0.0) for _ in range(target)]
    taking: list[_Replica] = []
    for tick in range(int((seconds + 60) / TICK_S)):
        now = clock.now = tick * TICK_S
        while due and due[0].at_s <= now:
            arrival = due.popleft()
            if not queue:
                waiting_since, began_with = now, len(taking)
            grows = min(began_with, len(taking)) < most and now - waiting_since < GROWS_WITHIN_S
            standing = taking and len(queue) >= STANDING * slots * len(taking) and not grows
            if refuses and standing:
                run.failed += 1
            else:
                queue.append((arrival, arrival.at_s))
        ready = [replica for replica in replicas if replica.ready_at <= now]
        for replica in ready:
            while replica.ends_at <= now:
                arrival, came = replica.finish()
                run.took_s.append((arrival, now - came))
            if replica.leaving and not replica.calls:
                replicas.remove(replica)
        taking = [replica for replica in ready if not replica.leaving]
        while queue and taking:
            replica = min(taking, key=lambda one: len(one.calls))
            if len(replica.calls) >= slots:
                break
            replica.take(*queue.popleft())
        if tick % round(max(config.metrics_interval_s, CONTROL_S) / TICK_S) == 0:
            for replica in taking:
                replica.sample()
        if tick % round(CONTROL_S / TICK_S) == 0:
            waited.append(float(len(queue)))
            run.replicas.append((now, len(replicas), len(ready)))
            units = sum(waited) / len(waited)
            ingress = _Context([], AutoscalingConfig(), 0.0, 0.0)
            ingress.aggregated_metrics = {units_waiting("Paced"): {0: units}}
            replicas_for_calls(cast(AutoscalingContext, ingress))
            context = _Context(taking, config, now - config.look_back_period_s, units)
            wanted, _ = policy(cast(AutoscalingContext, context))
            wanted = min(max(math.ceil(wanted), config.min_replicas), most)
            if queue and not taking:
                target = max(target, 1)
            else:
                target, state = _apply_delay_logic(wanted, target, config, state, _now=now)
            staying = [replica for replica in replicas if not replica.leaving]
            for replica in staying[target:]:
                replica.leaving = True
            replicas += [_Replica(clock, now + STARTS_IN_S) for _ in range(target - len(staying))]
    run.failed += len(due) + len(queue)
    return run


def by_serves_default(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    return context.total_num_requests / 2, {}


def compared(arrivals: Sequence[Arrival], seconds: float, ours: Autoscaling, most: int) -> dict[str, Run]:
    mine = AutoscalingConfig(**_autoscaling(ours, "ReplicasForWork", target_queue_s=ours.target_queue_s))
    policy = ReplicasForWork(ours.target_queue_s)
    return {
        "Serve's default": simulated(
            arrivals,
            seconds,
            by_serves_default,
            AutoscalingConfig(max_replicas=most),
            SERVES_SLOTS,
            most,
            refuses=False,
        ),
        "ours": simulated(arrivals, seconds, policy, mine, SLOTS, most, refuses=True),
    }


def burst(seconds: float) -> None:
    arrivals = burst_of(seconds)
    config = AutoscalingConfig(**_autoscaling(BURST, "ReplicasForWork", target_queue_s=BURST.target_queue_s))
    policy = ReplicasForWork(BURST.target_queue_s)
    run = simulated(arrivals, seconds, policy, config, SLOTS, BURST.max_replicas, refuses=True)
    print_burst(run, arrivals, seconds)


def nodes(count: int, requests: int) -> None:
    spent_s = 0.0
    simulation = Simulation(count, room=12, callers=16 * count, draw=zipf(10 * count, seed=1))
    pick = simulation.pool.pick

    def timed(model: str) -> Any:
        nonlocal spent_s
        begin = time.perf_counter()
        try:
            return pick(model)
        finally:
            spent_s += time.perf_counter() - begin

    simulation.pool.pick = timed  # type: ignore[method-assign]
    simulation.run(requests)
    loads = sum(simulation.loads.values())
    print(f"| {count} | {10 * count} | {loads} | {requests} | {spent_s / requests * 1e6:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("trace", "burst", "nodes"))
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--plot", type=Path, help="a picture of the replicas over time")
    options = parser.parse_args()
    if options.what == "nodes":
        print("| nodes | models | loads | requests | choosing a replica, µs |\n|---:|---:|---:|---:|---:|")
        for count in (4, 20, 100):
            nodes(count, 300 * count)
        return None
    if options.what == "burst":
        return burst(options.seconds)
    arrivals = read(options.trace, options.seconds) if options.trace else made(options.seconds)
    runs = compared(arrivals, options.seconds, OURS, MOST)
    if options.plot:
        draw(runs, arrivals, options.seconds, options.plot)
    for name, run in runs.items():
        print(
            f"{name}: {run.misses} later than {SLO_S:g} s, {run.replica_seconds(options.seconds):.0f} replica seconds"
        )
    return None


if __name__ == "__main__":
    main()
