"""`python -m benchmarks.cluster.placement`: how often four replicas on three nodes load models, measured and simulated.

The models are real folders, the replicas processes behind this runtime's ingress; loads and answers only wait. Callers
ask one after the other, by Zipf's law. Beside them the same in simulated time, and Serve's own `@serve.multiplexed`.
Needs Ray's token: `ray get-auth-token --generate`. `least` needs nothing: it prints how many loads the same calls, one
after the other, need for those who know more than a runtime does.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from ray import serve
from ray.cluster_utils import Cluster
from safetensors.torch import save_file

from benchmarks.cluster.empty_models import EMPTY, LOAD_S, MODEL_MB, SERVICE_S, Empty, EmptyResult, loads_file
from deployments.contract.settings import Autoscaling, FamilySettings
from serve_app.app import compose
from serve_app.config.config import RuntimeConfig
from serve_app.node import set_environment_until_exit
from tests.serve_app.dispatch.simulated import Simulation, zipf
from tests.support.until import wait_until

REPLICAS, ROOM, CALLERS = 4, 4, 8
CPUS = 4
"""Of a replica: they do not all fit on a node."""
POINTS = ((12, 2000), (24, 2000))
"""Models, requests."""

Ask = Callable[[str], Awaitable[bool]]


class Multiplexed:
    """The same replica as a plain deployment of Serve."""

    def __init__(self, loads: Path) -> None:
        self.loads = loads

    @serve.multiplexed(max_num_models_per_replica=ROOM)  # type: ignore[untyped-decorator]  # Ray's is not
    async def model(self, name: str) -> str:
        with self.loads.open("a") as file:
            file.write(f"{name}\n")
        await asyncio.sleep(LOAD_S)
        return name

    async def __call__(self) -> str:
        await self.model(serve.get_multiplexed_model_id())
        await asyncio.sleep(SERVICE_S)
        return serve.get_multiplexed_model_id()


def models(folder: Path, count: int) -> Path:
    for number in range(count):
        model = folder / f"m{number}"
        model.mkdir(parents=True)
        (model / "config.json").write_text(json.dumps({"architectures": ["Empty"]}))
        (model / "model.yaml").write_text(f"memory_mb: {MODEL_MB}\n")
        save_file({"w": torch.zeros(1)}, model / "model.safetensors")
    return folder


async def asked(ask: Ask, draw: Callable[[], str], requests: int) -> tuple[float, int]:
    """How long it took, and how many had no answer."""
    left, failed = requests, 0

    async def caller() -> None:
        nonlocal left, failed
        while left:
            left -= 1
            failed += not await ask(draw())

    begin = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return time.perf_counter() - begin, failed


def ours(folder: Path, count: int, requests: int) -> tuple[int, float, int]:
    """Loads, seconds, failures."""
    repository = models(folder / "models", count)
    always = Autoscaling(min_replicas=REPLICAS, max_replicas=REPLICAS)
    settings = FamilySettings(
        autoscaling=always, num_cpus=CPUS, num_gpus=0, required_mem_mb=ROOM * MODEL_MB + MODEL_MB // 2
    )
    config = RuntimeConfig(models=repository, cache=folder / "cache", families={"empty": settings})
    handle: Any = serve.run(compose(config, (EMPTY,)), name="ours", route_prefix=None)

    async def ask(name: str) -> bool:
        answer = await handle.infer.remote(Empty(model_id=name))
        if not isinstance(answer, EmptyResult):
            print(answer)
        return isinstance(answer, EmptyResult)

    assert asyncio.run(ask("m0")), "the first request is answered"
    loads_file(repository).unlink()
    took_s, failed = asyncio.run(asked(ask, zipf(count, seed=1), requests))
    serve.delete("ours")
    # m0 was loaded before.
    return 1 + len(loads_file(repository).read_text().splitlines()), took_s, failed


def multiplexed(folder: Path, count: int, requests: int) -> tuple[int, float, int]:
    loads = folder / "loads.txt"
    deployment: Any = serve.deployment(
        num_replicas=REPLICAS, max_ongoing_requests=CALLERS, ray_actor_options={"num_cpus": CPUS}
    )(Multiplexed)
    handle: Any = serve.run(deployment.bind(loads), name="multiplexed", route_prefix=None)

    async def ask(name: str) -> bool:
        return bool(await handle.options(multiplexed_model_id=name).remote() == name)

    took_s, failed = asyncio.run(asked(ask, zipf(count, seed=1), requests))
    serve.delete("multiplexed")
    return len(loads.read_text().splitlines()), took_s, failed


def simulated(count: int, requests: int) -> tuple[int, float]:
    simulation = Simulation(REPLICAS, ROOM, CALLERS, zipf(count, seed=1), load_s=LOAD_S, service_s=SERVICE_S)
    simulation.run(requests)
    return sum(simulation.loads.values()), simulation.now


def least(calls: Sequence[str], places: int) -> dict[str, int]:
    """Loads, where one of the models in memory has to go for each. "next": it is the one that is asked for again last
    (Bélády); "often": that is asked for least in all; "lru": that was not asked for longest."""
    again, coming = [0] * len(calls), dict[str, int]()
    for at in reversed(range(len(calls))):
        again[at] = coming.get(calls[at], len(calls))
        coming[calls[at]] = at
    often = Counter(calls)
    loads = dict.fromkeys(("next", "often", "lru"), 0)
    for policy in loads:
        held = dict[str, float]()  # What is kept longest has the largest number.
        for at, model in enumerate(calls):
            if model not in held:
                loads[policy] += 1
                if len(held) == places:
                    del held[min(held, key=held.__getitem__)]
            held[model] = {"next": -again[at], "often": often[model], "lru": at}[policy]
    return loads


def print_least() -> None:
    print("| models | requests | seed | all later calls known | their frequencies known | least recently used |")
    print("|---:|---:|---:|---:|---:|---:|")
    for count, requests in POINTS:
        for seed in range(1, 5):
            draw = zipf(count, seed)
            loads = least([draw() for _ in range(requests)], REPLICAS * ROOM)
            print(f"| {count} | {requests} | {seed} | {' | '.join(map(str, loads.values()))} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("measured", "least"), default="measured")
    if parser.parse_args().what == "least":
        return print_least()
    set_environment_until_exit()
    memory: Any = {"object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": CPUS + 1, "include_dashboard": False} | memory)
    try:
        cluster.add_node(num_cpus=2 * CPUS, **memory)
        cluster.add_node(num_cpus=CPUS, **memory)
        ray.init(address=cluster.address, log_to_driver=False)
        wait_until(lambda: sum(node["Alive"] for node in ray.nodes()) == 3, "three nodes", 60)
        serve.start(proxy_location="Disabled")
        print("| models | requests | loads, measured | simulated | s, measured | simulated | failed |")
        print("|---:|---:|---:|---:|---:|---:|---:|")
        for count, requests in POINTS:
            with tempfile.TemporaryDirectory() as folder:
                loads, took_s, failed = ours(Path(folder), count, requests)
            there, needed_s = simulated(count, requests)
            print(
                f"| {count} | {requests} | {loads} | {there} | {took_s:.1f} | {needed_s:.1f} | {failed} |", flush=True
            )
        with tempfile.TemporaryDirectory() as folder:
            loads, took_s, failed = multiplexed(Path(folder), count, requests)
        print(f"| {count}, `@serve.multiplexed` | {requests} | {loads} | – | {took_s:.1f} | – | {failed} |")
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()
    return None


if __name__ == "__main__":
    main()
