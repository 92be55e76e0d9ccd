"""`make test-faults`: of three nodes the head dies and comes back, then a worker dies; callers enter by the others."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest

from deployments.families.table import FAMILIES
from tests.faults.nodes import Node, Nodes, Replica, can_have_nodes, started_nodes
from tests.faults.served import Load
from tests.support.tiny_models import save_text_model
from tests.support.until import wait_until

pytestmark = [
    pytest.mark.skipif("FAULTS" not in os.environ, reason="make test-faults: minutes"),
    pytest.mark.skipif(not can_have_nodes(), reason="network namespaces need root, and `ip` of iproute2"),
    pytest.mark.timeout(900),
]

BACK_WITHIN_S = float(os.environ.get("FAULTS_WITHIN_S", "30"))
NOTICED_WITHIN_S = 10.0
LOOK_EVERY_S = 1.0
"""Ray's dashboard and Serve's controller work for each look, on cores that the nodes share."""
ANSWERED = 0.999
RESTART_AFTER_S = 1.0
"""What a supervisor waits, as systemd's RestartSec."""
WANTED = {"Ingress": 3, "TextGeneration": 3}
THREE = {"autoscaling": {"min_replicas": 3, "max_replicas": 3}, "num_cpus": 1}
NONE = {"autoscaling": {"min_replicas": 0, "max_replicas": 1}, "num_cpus": 1}
CPUS = 4
"""Of each node: two have room for what three had."""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    models = tmp_path_factory.mktemp("nodes") / "models"
    save_text_model(models / "text")
    families = {family.name: THREE if family.name == "text_generation" else NONE for family in FAMILIES}
    application: dict[str, Any] = {
        "name": "model-runtime",
        "route_prefix": "/",
        "import_path": "serve_app.app:build",
        "args": {"models": str(models), "ingress": THREE, "families": families},
    }
    with started_nodes(models, 3, CPUS) as nodes:
        nodes.deploy(application)
        yield nodes


@contextmanager
def loaded(entrances: Sequence[Node]) -> Iterator[list[Load]]:
    body: dict[str, object] = {"TextGeneration": {"model_id": "text", "prompt": "a", "max_tokens": 16}}
    loads = [Load(node.url, body) for node in entrances]
    with ExitStack() as running:
        for load in loads:
            running.enter_context(load.running())
        _goes_on(loads)
        yield loads
        _goes_on(loads)


def _goes_on(loads: Sequence[Load]) -> None:
    before = [load.answered for load in loads]
    wait_until(lambda: all(load.answered > old + 20 for load, old in zip(loads, before, strict=True)), "the load runs")


def is_whole(nodes: Nodes, without: set[Replica]) -> bool:
    """Whether as many replicas run as are wanted, those of before a death not counted."""
    running = Counter(replica.deployment for replica in nodes.replicas() - without)
    return all(running[name] >= count for name, count in WANTED.items())


def all_answer(nodes: Sequence[Node]) -> bool:
    return all(node.answers() for node in nodes)


def ready(nodes: Nodes) -> None:
    wait_until(partial(is_whole, nodes, set()), "all replicas run", 240, every_s=0.5)
    wait_until(partial(all_answer, nodes.nodes), "each node answers", 240, every_s=0.5)


def on(node: Node, nodes: Nodes) -> set[Replica]:
    there = {replica for replica in nodes.replicas() if replica.node == node.address}
    assert {replica.deployment for replica in there} >= set(WANTED), f"each deployment has a replica there: {there}"
    return there


def checked(what: str, loads: Sequence[Load], again_s: float) -> None:
    answered, failed = sum(load.answered for load in loads), [one for load in loads for one in load.failed]
    refused, longest_s = sum(load.refused for load in loads), max(load.longest_s for load in loads)
    said = (
        f"{len(failed)} failed, {refused} tries repeated, longest {longest_s:.1f} s, whole again after {again_s:.1f} s"
    )
    print(f"\n{what}: {answered} answered, {said}")
    assert len(failed) <= (1 - ANSWERED) * answered, Counter(failed)
    assert sum(load.wrong for load in loads) == 0
    assert again_s <= BACK_WITHIN_S


def test_the_head_may_die_and_come_back(nodes: Nodes) -> None:
    ready(nodes)
    head, *others = nodes.nodes
    lost = on(head, nodes)
    kept = nodes.replicas() - lost
    with loaded(others) as loads:
        killed_at = head.kill()
        time.sleep(RESTART_AFTER_S)
        head.start()
        wait_until(partial(is_whole, nodes, lost), "as many replicas run", 240, every_s=LOOK_EVERY_S)
        wait_until(partial(all_answer, nodes.nodes), "each node answers", 240, every_s=LOOK_EVERY_S)
        again_s = time.monotonic() - killed_at
        assert kept <= nodes.replicas(), "what ran elsewhere runs on"
    checked("the head", loads, again_s)


def test_a_worker_node_may_die(nodes: Nodes) -> None:
    ready(nodes)
    head, other, dying = nodes.nodes
    lost = on(dying, nodes)
    with loaded([head, other]) as loads:
        killed_at = dying.kill()
        wait_until(partial(nodes.is_noticed, dying), "the head notices", 60)
        noticed_s = time.monotonic() - killed_at
        wait_until(partial(is_whole, nodes, lost), "others run in their place", 240, every_s=LOOK_EVERY_S)
        again_s = time.monotonic() - killed_at
    print(f"\nnoticed after {noticed_s:.1f} s")
    checked("a worker", loads, again_s)
    assert noticed_s <= NOTICED_WITHIN_S
