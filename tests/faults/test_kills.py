"""`make test-faults`: replicas are killed at random moments, two of each family; callers lose nothing."""

import base64
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest

from deployments.families.table import FAMILIES
from tests.faults.served import PARTS, Served, kill, serving
from tests.support.ports import free_port
from tests.support.tiny_models import save_image_model, save_picture, save_text_model
from tests.support.until import wait_until

pytestmark = [
    pytest.mark.skipif("FAULTS" not in os.environ, reason="make test-faults: minutes"),
    pytest.mark.timeout(1200),
]

KILLS = int(os.environ.get("FAULTS_KILLS", "50"))
LONGEST_S = float(os.environ.get("FAULTS_LONGEST_S", "10"))
P99_S = 5.0
SEED = 7
TWO = {"autoscaling": {"min_replicas": 2, "max_replicas": 2}, "num_cpus": 0}
NONE = {"autoscaling": {"min_replicas": 0, "max_replicas": 1}, "num_cpus": 0}
KILLED = {"text_generation": "text replica", "image_classification": "image replica"}
PARTS["image replica"] = "ray::ServeReplica:model-runtime:ImageClassification"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    save_text_model(tmp_path / "models" / "text")
    save_image_model(tmp_path / "models" / "image")
    families = {family.name: TWO if family.name in KILLED else NONE for family in FAMILIES}
    configuration = json.dumps({"ingress": {"num_cpus": 0}, "families": families})
    with serving(tmp_path, free_port(), tmp_path / "models", configuration) as served:
        yield served


class Callers:
    """Each sends its request again and again, and none a second time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.over = threading.Event()
        self.waits_s: list[float] = []
        self.failed: list[str] = []
        self.wrong: list[str] = []

    def call(self, body: Mapping[str, object]) -> None:
        first = ""
        with httpx.Client(timeout=70) as client:
            while not self.over.is_set():
                begun = time.monotonic()
                try:
                    answer = self._answer(client, body)
                except (httpx.HTTPError, AssertionError) as failure:
                    self.failed.append(f"{type(failure).__name__}: {failure}"[:300])
                    continue
                finally:
                    self.waits_s.append(time.monotonic() - begun)
                first = first or answer
                if answer != first:
                    self.wrong.append(answer)

    def _answer(self, client: httpx.Client, body: Mapping[str, object]) -> str:
        reply = client.post(f"{self.url}/infer", json=body)
        assert reply.is_success, reply.text
        last = reply.text.strip().splitlines()[-1].removeprefix("data: ")
        assert "Result" in last, last
        return last


def bodies(picture: Path) -> list[Mapping[str, object]]:
    """Of the 12 callers: greedy and seeded texts, streams, pictures."""
    text = {"model_id": "text", "prompt": "a", "max_tokens": 100}
    seeded = text | {"temperature": 1.0, "seed": 5}
    image = {"model_id": "image", "image_data": base64.b64encode(picture.read_bytes()).decode()}
    asked = [text, seeded, text | {"stream": True}, seeded | {"stream": True}] * 2
    return [*({"TextGeneration": fields} for fields in asked), *({"ImageClassification": image} for _ in range(4))]


def test_replicas_may_be_killed_at_any_moment(served: Served, tmp_path: Path) -> None:
    wait_until(served.answers, "it is ready", 120)
    callers, randomly = Callers(served.url), random.Random(SEED)

    def kill_again_and_again(part: str) -> None:
        for _ in range(KILLS // len(KILLED)):
            time.sleep(randomly.uniform(0, 2))
            victim = randomly.choice(list(served.parts(part)))
            kill(victim)
            wait_until(partial(_ready, served, part, victim.pid), f"there are two: {part}", 120)

    asked = bodies(save_picture(tmp_path / "picture.png"))
    with ThreadPoolExecutor(len(asked) + len(KILLED)) as threads:
        calling = [threads.submit(partial(callers.call, body)) for body in asked]
        try:
            wait_until(lambda: len(callers.waits_s) > 100, "the load runs", 60)
            killing: list[Callable[[], object]] = [
                threads.submit(partial(kill_again_and_again, part)).result for part in KILLED.values()
            ]
            for ended in killing:
                ended()
        finally:
            callers.over.set()
        for caller in calling:
            caller.result()
    waits = sorted(callers.waits_s)
    p99 = waits[int(len(waits) * 0.99)]
    said = f"{len(callers.failed)} failed, {len(callers.wrong)} wrong, p99 {p99:.2f} s, longest {waits[-1]:.1f} s"
    print(f"\n{KILLS} kills: {len(waits)} requests, {said}")
    assert (callers.failed, callers.wrong) == ([], [])
    assert httpx.get(f"{served.url}/quarantine", timeout=10).json()["inputs"] == []
    assert p99 <= P99_S
    assert waits[-1] <= LONGEST_S


def _ready(served: Served, part: str, killed: int) -> bool:
    """Whether two replicas answer, the killed one not being among them."""
    family = next(name for name, known in KILLED.items() if known == part)
    model = {"text_generation": "text", "image_classification": "image"}[family]
    pids = {process.pid for process in served.parts(part)}
    replicas = httpx.get(f"{served.url}/models/{model}", timeout=10).json()["replicas"]
    return killed not in pids and len(pids) >= 2 and sum(one["state"] == "ready" for one in replicas) >= 2
