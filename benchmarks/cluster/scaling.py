"""`python -m benchmarks.cluster.scaling burst|trace`: replicas that come and go, of a family that only waits.

`burst`: from no replica to the load of three, and back. `trace`: requests as an Azure trace has them (`--trace FILE`
with the columns TIMESTAMP, ContextTokens and GeneratedTokens; without it a made one), for this runtime and for a
deployment with Serve's default policy in turn, and how many took `SLO_S` longer than alone.
"""

import argparse
import asyncio
import csv
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.context import _get_global_client

from benchmarks.http.paced import PACED, Paced, PacedResult
from deployments.contract.settings import Autoscaling, FamilySettings
from serve_app.app import compose
from serve_app.config.config import RuntimeConfig
from serve_app.node import set_environment_until_exit

SLO_S = 5.0
MOST = 4
"""Replicas."""
SAMPLE_S = 0.25
TOKENS_A_S = {"ContextTokens": 24_000, "GeneratedTokens": 150}
"""Read and written by a replica: so a replica's load is that of the trace divided by a few."""
FROM_S = 180.0
"""Where in the trace the run begins."""
BURST_LOAD = 2.7
"""Seconds of work a second: what three replicas can do with a little left."""

OURS = Autoscaling(max_replicas=MOST, upscale_delay_s=2, downscale_delay_s=10, target_queue_s=1)
BURST = Autoscaling(min_replicas=0, max_replicas=MOST, upscale_delay_s=5, downscale_delay_s=10)
SLOTS = 8

Ask = Callable[[int], Awaitable[bool]]
"""Sends a request that takes so many milliseconds; whether it was answered."""


@dataclass(frozen=True, slots=True)
class Arrival:
    at_s: float
    takes_ms: int


@dataclass
class Run:
    """What one policy did. `replicas`: when, and how many processes there were and how many of them took requests."""

    took_s: list[tuple[Arrival, float]] = field(default_factory=list)
    failed: int = 0
    replicas: list[tuple[float, int, int]] = field(default_factory=list)

    @property
    def misses(self) -> int:
        return self.failed + sum(took > SLO_S + arrival.takes_ms / 1e3 for arrival, took in self.took_s)

    def replica_seconds(self, until_s: float) -> float:
        times = [(at, there) for at, there, _ in self.replicas if at <= until_s] + [(until_s, 0)]
        return sum(there * (after - at) for (at, there), (after, _) in pairwise(times))

    def first(self, running: int, since_s: float = 0.0) -> float:
        """When so many or more took requests, at the earliest; 0: when none did."""
        return next(
            (at for at, _, count in self.replicas if at >= since_s and (count >= running if running else not count)),
            float("inf"),
        )


class Waiter:
    """The same replica as a plain deployment of Serve."""

    def __init__(self) -> None:
        self.device = asyncio.Lock()

    async def __call__(self, takes_ms: int) -> None:
        async with self.device:
            await asyncio.sleep(takes_ms / 1e3)


def read(trace: Path, seconds: float) -> list[Arrival]:
    with trace.open() as file:
        rows = [(datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp(), row) for row in csv.DictReader(file)]
    begin = rows[0][0] + FROM_S
    return [
        Arrival(at - begin, int(1000 * sum(int(row[name]) / speed for name, speed in TOKENS_A_S.items())))
        for at, row in rows
        if 0 <= at - begin < seconds
    ]


def made(seconds: float, seed: int = 0) -> list[Arrival]:
    """Bursts of some seconds with pauses, as in the trace."""
    chance, at, arrivals = random.Random(seed), 0.0, list[Arrival]()
    while at < seconds:
        end, rate = at + chance.uniform(5, 30), chance.uniform(2, 14)
        while (at := at + chance.expovariate(rate)) < min(end, seconds):
            arrivals.append(Arrival(at, int(chance.lognormvariate(5.3, 0.8))))
        at = end + chance.uniform(0, 20)
    return arrivals


async def replay(arrivals: Sequence[Arrival], ask: Ask, run: Run) -> None:
    begin = time.perf_counter()

    async def one(arrival: Arrival) -> None:
        await asyncio.sleep(max(0.0, arrival.at_s - (time.perf_counter() - begin)))
        sent = time.perf_counter()
        if await ask(arrival.takes_ms):
            run.took_s.append((arrival, time.perf_counter() - sent))
        else:
            run.failed += 1

    await asyncio.gather(*map(one, arrivals))


@contextmanager
def watching(application: str, deployment: str, run: Run) -> Iterator[None]:
    client, over, begin = _get_global_client(), threading.Event(), time.perf_counter()
    assert client is not None

    def watch() -> None:
        while not over.wait(SAMPLE_S):
            details: Any = client.get_serve_details()
            states = [
                replica["state"]
                for replica in details["applications"][application]["deployments"][deployment]["replicas"]
            ]
            run.replicas.append((time.perf_counter() - begin, len(states), states.count("RUNNING")))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def ours(arrivals: Sequence[Arrival], autoscaling: Autoscaling, idle_s: float = 0.0) -> Run:
    """`idle_s`: how long it is watched after the last answer."""
    settings = FamilySettings(autoscaling=autoscaling, num_cpus=0.1, num_gpus=0, max_ongoing_requests=SLOTS)
    config = RuntimeConfig(models=Path(__file__).parent, families={"paced": settings})
    handle: Any = serve.run(compose(config, (PACED,)), name="ours", route_prefix=None)

    async def ask(takes_ms: int) -> bool:
        answer = await handle.infer.remote(Paced(model_id="", text="", takes_ms=takes_ms))
        if not isinstance(answer, PacedResult):
            print(answer)
        return isinstance(answer, PacedResult)

    return _measured("ours", "Paced", arrivals, ask, idle_s)


def serves_default(arrivals: Sequence[Arrival]) -> Run:
    deployment: Any = serve.deployment(
        autoscaling_config={"min_replicas": 1, "max_replicas": MOST}, ray_actor_options={"num_cpus": 0.1}
    )(Waiter)
    handle: Any = serve.run(deployment.bind(), name="default", route_prefix=None)

    async def ask(takes_ms: int) -> bool:
        await handle.remote(takes_ms)
        return True

    return _measured("default", "Waiter", arrivals, ask, 0.0)


def _measured(name: str, deployment: str, arrivals: Sequence[Arrival], ask: Ask, idle_s: float) -> Run:
    run = Run()
    with watching(name, deployment, run):
        asyncio.run(replay(arrivals, ask, run))
        time.sleep(idle_s)
    serve.delete(name)
    return run


def burst_of(seconds: float) -> list[Arrival]:
    takes_ms = 500
    return [Arrival(n * takes_ms / 1e3 / BURST_LOAD, takes_ms) for n in range(int(seconds * BURST_LOAD * 2))]


def burst(seconds: float) -> None:
    arrivals = burst_of(seconds)
    print_burst(ours(arrivals, BURST, idle_s=45), arrivals, seconds)


def print_burst(run: Run, arrivals: Sequence[Arrival], seconds: float) -> None:
    slowest = max(took for _, took in run.took_s)
    print(f"{len(arrivals)} requests in {seconds:.0f} s, {run.failed} failed, the slowest took {slowest:.1f} s")
    print(f"the first replica after {run.first(1):.1f} s, three after {run.first(3):.1f} s")
    changes = [one for before, one in pairwise([(0.0, 0, 0), *run.replicas]) if one[2] != before[2]]
    print("replicas:", ", ".join(f"{count} from {at:.1f} s" for at, _, count in changes))
    print(f"none any more {run.first(0, since_s=seconds) - seconds:.1f} s after the last request was sent")


def compared(trace: Path | None, seconds: float, plot: Path | None) -> None:
    arrivals = read(trace, seconds) if trace else made(seconds)
    runs = {"Serve's default": serves_default(arrivals), "ours": ours(arrivals, OURS)}
    print(f"{len(arrivals)} requests in {seconds:.0f} s, {sum(one.takes_ms for one in arrivals) / 1e3:.0f} s of work")
    print(f"| policy | later than {SLO_S:g} s beyond their own time | failed | replica seconds | most replicas |")
    print("|---|---:|---:|---:|---:|")
    for name, run in runs.items():
        most = max(running for _, _, running in run.replicas)
        print(f"| {name} | {run.misses} | {run.failed} | {run.replica_seconds(seconds):.0f} | {most} |")
    if plot:
        draw(runs, arrivals, seconds, plot)


def draw(runs: dict[str, Run], arrivals: Sequence[Arrival], seconds: float, plot: Path) -> None:
    import matplotlib

    matplotlib.use("svg" if plot.suffix == ".svg" else "agg")
    from matplotlib import pyplot

    figure, (load, count) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 4), layout="constrained")
    work = [0.0] * (int(seconds / 5) + 1)
    for arrival in arrivals:
        work[int(arrival.at_s / 5)] += arrival.takes_ms / 5e3
    load.step([5 * n for n in range(len(work))], work, where="post", color="grey")
    load.set_ylabel("work, s/s")
    for name, run in runs.items():
        count.step([at for at, _, _ in run.replicas], [running for _, _, running in run.replicas], label=name)
    count.set(xlabel="s", ylabel="replicas", xlim=(0, seconds), ylim=(0, MOST + 0.5))
    count.legend(loc="lower right")
    figure.savefig(plot, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("burst", "trace"))
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--plot", type=Path, help="a picture of the replicas over time")
    options = parser.parse_args()
    set_environment_until_exit()
    ray.init(address="local", num_cpus=16, object_store_memory=100 << 20, log_to_driver=False, include_dashboard=False)
    try:
        serve.start(proxy_location="Disabled")
        if options.what == "burst":
            burst(options.seconds)
        else:
            compared(options.trace, options.seconds, options.plot)
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
