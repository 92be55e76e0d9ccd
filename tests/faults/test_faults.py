"""`make test-faults`: each part of `model-runtime serve` is killed under load; callers who try again miss nothing."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deployments.families.table import FAMILIES
from tests.faults.served import Load, Served, kill, serving
from tests.support.ports import free_port
from tests.support.tiny_models import save_text_model
from tests.support.until import wait_until

pytestmark = [
    pytest.mark.skipif("FAULTS" not in os.environ, reason="make test-faults: minutes"),
    pytest.mark.timeout(900),
]

REPLACED = ["haproxy", "controller", "ingress", "registry", "aggregator", "text replica"]
"""What comes back while the rest goes on."""
ANEW = {"gcs_server": "gcs_server", "raylet": "raylet", "dashboard agent": "raylet", "runtime env agent": "raylet"}
"""What the whole runtime dies with, by what is said of it: the raylet ends itself with either of its agents."""
ANSWERS_AGAIN_WITHIN_S = float(os.environ.get("FAULTS_WITHIN_S", "30"))
TWO = {"autoscaling": {"min_replicas": 2, "max_replicas": 2}, "num_cpus": 0}
NONE = {"autoscaling": {"min_replicas": 0, "max_replicas": 1}, "num_cpus": 0}
FAMILY = "text_generation"
CONFIGURATION = {
    "ingress": TWO,
    "families": {family.name: TWO if family.name == FAMILY else NONE for family in FAMILIES},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    models = tmp_path_factory.mktemp("models")
    save_text_model(models / "text")
    with serving(tmp_path_factory.mktemp("served"), free_port(), models, json.dumps(CONFIGURATION)) as served:
        yield served


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Served]:
    """One for each: the third death within five minutes would be the last."""
    save_text_model(tmp_path / "models" / "text")
    with serving(tmp_path, free_port(), tmp_path / "models", json.dumps(CONFIGURATION)) as served:
        yield served


def load_of(served: Served) -> Load:
    wait_until(served.answers, "it is ready", 120)
    return Load(served.url, {"TextGeneration": {"model_id": "text", "prompt": "a", "max_tokens": 16}})


def printed(name: str, load: Load, again_s: float) -> None:
    tries, failed = f"{load.refused} tries repeated", f"{len(load.failed)} failed, {load.wrong} wrong"
    print(
        f"\n{name}: {load.answered} answered, {failed}, {tries}, longest {load.longest_s:.1f} s, again {again_s:.1f} s"
    )


@pytest.mark.parametrize("name", REPLACED)
def test_what_is_killed_costs_callers_who_try_again_nothing(served: Served, name: str) -> None:
    with load_of(served).running() as load:
        wait_until(lambda: load.answered > 20, "the load runs")
        victim = wait_until(lambda: served.part(name), f"there is a {name}")
        count = len(list(served.parts(name)))
        killed_at = kill(victim)
        before = load.answered
        wait_until(lambda: load.answered > before + 8, "callers are answered")
        again_s = time.monotonic() - killed_at
        wait_until(lambda: _others(served, name, victim) >= count, f"there is another {name}", 120)
        wait_until(served.answers, "all is ready", 120)
        before = load.answered
        wait_until(lambda: load.answered > before + 20, "the load runs")
    printed(name, load, again_s)
    assert (load.failed, load.wrong) == ([], 0)


def _others(served: Served, name: str, victim: psutil.Process) -> int:
    return sum(process.pid != victim.pid for process in served.parts(name))


@pytest.mark.parametrize("name", ANEW)
def test_the_runtime_starts_itself_anew(fresh: Served, name: str) -> None:
    served = fresh
    before = psutil.Process(served.process.pid).children(recursive=True)
    haproxy = served.part("haproxy")
    with load_of(served).running() as load:
        wait_until(lambda: load.answered > 20, "the load runs")
        victim = served.part(name)
        assert victim is not None
        killed_at = kill(victim)
        wait_until(lambda: f"{ANEW[name]} died: starting anew" in served.log.read_text(), "it is noticed", 3)
        answered = load.answered
        wait_until(lambda: load.answered > answered + 8, "it answers again", 240)
        again_s = time.monotonic() - killed_at
    printed(name, load, again_s)
    left = [process for process in before if process.is_running() and process != haproxy]
    assert [process.cmdline() for process in left] == []
    assert again_s <= ANSWERS_AGAIN_WITHIN_S
    assert load.wrong == 0
