"""`make soak-faults`: a process is killed every 30 s under load; every answer is right, and nothing grows."""

import base64
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.http.soak import MIB
from deployments.families.table import FAMILIES
from tests.faults.held import Held, grown, held
from tests.faults.served import Load, Served, kill, serving
from tests.support.ports import free_port
from tests.support.tiny_models import save_image_model, save_picture, save_text_model
from tests.support.until import wait_until

pytestmark = [
    pytest.mark.skipif("SOAK_S" not in os.environ, reason="make soak-faults: 20 minutes"),
    pytest.mark.timeout(7200),
]

SOAK_S = float(os.environ.get("SOAK_S", "1200"))
FAULT_EVERY_S = float(os.environ.get("SOAK_FAULT_EVERY_S", "30"))
CALM_SHARE = 0.1
"""Of the time, before each look: what was started last has then answered as well."""
ONCE = ["controller", "ingress", "registry", "aggregator"]
"""What is killed in the first half alone: what they keep of others that die adds up in the second."""
ALWAYS = ["text replica", "image replica", "haproxy"]
MORE_SERIES = 20
"""Of metrics."""
TWO = {"autoscaling": {"min_replicas": 2, "max_replicas": 2}, "num_cpus": 0}
NONE = {"autoscaling": {"min_replicas": 0, "max_replicas": 1}, "num_cpus": 0}
KILLED = ("text_generation", "image_classification")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    save_text_model(tmp_path / "models" / "text")
    save_image_model(tmp_path / "models" / "image")
    families = {family.name: TWO if family.name in KILLED else NONE for family in FAMILIES}
    configuration = json.dumps({"ingress": TWO, "families": families})
    with serving(tmp_path, free_port(), tmp_path / "models", configuration) as served:
        yield served


def loads(served: Served, picture: bytes) -> list[Load]:
    image = {"model_id": "image", "image_data": base64.b64encode(picture).decode()}
    return [
        Load(served.url, {"TextGeneration": {"model_id": "text", "prompt": "a", "max_tokens": 16}}),
        Load(served.url, {"ImageClassification": image}),
    ]


def killing(served: Served, names: list[str], until_s: float) -> int:
    """Each in turn. Returns how many."""
    due, turns, count = time.monotonic(), itertools.cycle(names), 0
    while (due := due + FAULT_EVERY_S) <= until_s:
        threading.Event().wait(due - time.monotonic())
        _kill_one(served, next(turns))
        count += 1
    return count


def _kill_one(served: Served, name: str) -> None:
    """Returns once there are as many as before."""
    victim = wait_until(lambda: served.part(name), f"there is a {name}")
    assert victim
    there = len(list(served.parts(name)))
    kill(victim)

    def replaced() -> bool:
        return bool(sum(one.pid != victim.pid for one in served.parts(name)) >= there)

    wait_until(replaced, f"there is another {name}", 120)


def look(served: Served) -> tuple[dict[str, Held], int]:
    """What the processes hold, and how many series of metrics there are."""
    root = psutil.Process(served.process.pid)
    text = httpx.get(f"{served.url}/metrics", timeout=60).text
    series = sum(not line.startswith("#") for line in text.splitlines())
    return held([root, *root.children(recursive=True)]), series


def test_nothing_grows_while_processes_die_and_every_answer_is_right(served: Served, tmp_path: Path) -> None:
    begun, calm_s = time.monotonic(), SOAK_S * CALM_SHARE
    wait_until(served.answers, "it is ready", 120)
    with ExitStack() as running:
        under_load = [
            running.enter_context(load.running())
            for load in loads(served, save_picture(tmp_path / "picture.png").read_bytes())
        ]
        seen = []
        for share, names in ((0.5, ONCE + ALWAYS), (1.0, ALWAYS)):
            faults = killing(served, names, begun + share * SOAK_S - calm_s)
            threading.Event().wait(begun + share * SOAK_S - time.monotonic())
            seen.append(look(served))
            print(f"\n{faults} faults", *(f"{load.answered} answered, {load.refused} repeated" for load in under_load))
    (half, half_series), (end, end_series) = seen
    for kind in sorted(half.keys() | end.keys()):
        print(f"{kind:60}", *(_shown(one.get(kind)) for one in (half, end)))
    print(f"series of metrics: {half_series} → {end_series}")
    assert [(load.failed, load.wrong) for load in under_load] == [([], 0)] * len(under_load)
    assert grown(half, end) == []
    assert end_series <= half_series + MORE_SERIES


def _shown(one: Held | None) -> str:
    if one is None:
        return "–"
    return f"{one.processes} × {one.memory / MIB:.1f} MiB, {one.descriptors} descriptors, {one.threads} threads;"
