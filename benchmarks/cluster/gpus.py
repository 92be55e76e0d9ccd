"""`python -m benchmarks.cluster.gpus`: where replicas with shares of a GPU go, on nodes whose GPUs are only numbers.

A head without one, two nodes with two L4 each and one with an A100. The replicas only wait, and say which GPU Ray gave
them.
Needs Ray's token: `ray get-auth-token --generate`.
"""

from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
from ray import serve
from ray.cluster_utils import Cluster

from benchmarks.http.paced import Paced, PacedResult
from benchmarks.http.replicas import PacedReplica
from deployments.contract.settings import Autoscaling, FamilySettings
from deployments.contract.types import InferRequest
from deployments.replica.family import Family
from deployments.replica.model_replica import ReplicaOptions
from serve_app.app import compose
from serve_app.config.config import RuntimeConfig
from serve_app.node import set_environment_until_exit
from tests.support.until import wait_until


class _Placed(PacedReplica):
    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__(options)
        context, gpus = ray.get_runtime_context(), ",".join(map(str, ray.get_gpu_ids()))
        told = f"{options.family.name} {context.get_node_id()} {gpus} {context.get_actor_id()}"
        (Path(options.models) / told).touch()


class QuarterReplica(_Placed):
    pass


class HalfReplica(_Placed):
    pass


class WholeReplica(_Placed):
    pass


class LargeReplica(_Placed):
    pass


class Half(Paced, index=1003):
    pass


class Whole(Paced, index=1004):
    pass


class Large(Paced, index=1005):
    pass


SHARES: dict[str, tuple[type[InferRequest], int, float, str]] = {
    "quarter": (Paced, 4, 0.25, "L4"),
    "half": (Half, 2, 0.5, "L4"),
    "whole": (Whole, 1, 1.0, "L4"),
    "large": (Large, 1, 1.0, "A100"),
}
"""By family: its request, how many replicas, and of a GPU how much and of which kind."""
KINDS = {"L4": (2, 2), "A100": (1, 1)}
"""Nodes, and GPUs of each."""


def placed(folder: Path) -> list[tuple[str, str, str]]:
    """Family, node and GPU of each replica."""
    return sorted((family, node, gpu) for family, node, gpu, _ in (file.name.split(" ") for file in folder.iterdir()))


def main() -> None:
    set_environment_until_exit()
    memory: Any = {"object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False} | memory)
    try:
        names: dict[str, str] = {}
        for kind, (nodes, gpus) in KINDS.items():
            for number in range(nodes):
                node = cluster.add_node(num_cpus=8, num_gpus=gpus, resources={f"accelerator_type:{kind}": 1}, **memory)
                names[node.node_id] = f"{kind} node {number + 1}"
        ray.init(address=cluster.address, log_to_driver=False)
        with TemporaryDirectory() as name:
            _deploy(Path(name))
            expected = sum(count for _, count, _, _ in SHARES.values())
            wait_until(lambda: len(placed(Path(name))) >= expected, "the replicas have started", 120)
            held: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
            for family, node_id, gpu in placed(Path(name)):
                held[names[node_id], gpu].append(f"{family} ({SHARES[family][2]:g})")
        print("| node | GPU | replicas |\n|---|---|---|")
        for (node_name, gpu), families in sorted(held.items()):
            print(f"| {node_name} | {gpu} | {', '.join(families)} |")
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


def _deploy(folder: Path) -> None:
    families, settings = [], {}
    for name, (request, count, share, kind) in SHARES.items():
        deployment = f"benchmarks.cluster.gpus:{name.capitalize()}Replica"
        families.append(Family(name=name, request=request, result=PacedResult, deployment=deployment))
        scaling = Autoscaling(min_replicas=count, max_replicas=count)
        settings[name] = FamilySettings(autoscaling=scaling, num_gpus=share, accelerator_type=kind)
    serve.start(proxy_location="Disabled")
    application: Any = compose(RuntimeConfig(models=folder, families=settings), families)
    serve.run(application, name="gpus", route_prefix=None)


if __name__ == "__main__":
    main()
