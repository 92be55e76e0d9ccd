"""A changed configuration is deployed under load: what it touches is replaced, and no request fails."""

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
from ray import serve

from deployments.contract.settings import FamilySettings
from tests.support.echo import build
from tests.support.running import Running, replica_pids
from tests.support.until import wait_until

SLOW = {"Echo": {"model_id": "any", "text": "slow"}}
OTHERS = ("Ingress", "TextGeneration", "ImageClassification")


def test_the_only_replica_of_a_family_is_replaced_and_no_request_fails(runtime: Running) -> None:
    families = {**runtime.config.families, "echo": FamilySettings(max_batch_size=5)}
    before = [replica_pids("model-runtime", name) for name in OTHERS]
    (old,) = replica_pids("model-runtime", "Echo")
    statuses: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            statuses.append(httpx.post(f"{runtime.url}/infer", json=SLOW, timeout=60).status_code)

    with ThreadPoolExecutor(4) as callers:
        asking = [callers.submit(ask) for _ in range(4)]
        try:
            serve.run(build(runtime.config.model_copy(update={"families": families})), name="model-runtime")
            wait_until(lambda: old not in replica_pids("model-runtime", "Echo"))
            (new,) = replica_pids("model-runtime", "Echo")
        finally:
            over.set()
            serve.run(build(runtime.config), name="model-runtime")
        for one in asking:
            one.result(timeout=60)
    assert set(statuses) == {200}
    assert [replica_pids("model-runtime", name) for name in OTHERS] == before
    wait_until(lambda: new not in replica_pids("model-runtime", "Echo"))
