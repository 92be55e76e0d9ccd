"""Replicas follow the load: one more while it lasts, one less after."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from deployments.contract.settings import Autoscaling, FamilySettings
from serve_app.app import compose
from serve_app.config.config import IngressSettings, RuntimeConfig
from tests.support.echo import ECHO, Echo
from tests.support.running import replica_pids
from tests.support.until import wait_until

IDS = [f"request-{number}" for number in range(12)]
QUICK = Autoscaling(
    max_replicas=2, target_ongoing_requests=1, target_queue_s=0.5, upscale_delay_s=1, downscale_delay_s=1
)


def test_a_replica_is_added_under_load_and_taken_away_after_and_either_ingress_knows_the_others_requests(
    serve_url: str, repository: Path
) -> None:
    from ray import serve

    config = RuntimeConfig(
        models=repository,
        families={"echo": FamilySettings(autoscaling=QUICK, num_gpus=0)},
        ingress=IngressSettings(autoscaling=QUICK),
    )
    handle = serve.run(compose(config, (ECHO,)), name="scaling", route_prefix="/scaling")
    over = threading.Event()

    def replicas() -> dict[str, int]:
        return {name: len(replica_pids("scaling", name)) for name in ("Echo", "Ingress")}

    def keep_asking() -> None:
        while not over.is_set():
            handle.infer.remote(Echo(model_id="any", text="slow")).result(timeout_s=60)

    try:
        assert replicas() == {"Echo": 1, "Ingress": 1}
        with ThreadPoolExecutor(4) as callers:
            asking = [callers.submit(keep_asking) for _ in range(4)]
            try:
                wait_until(lambda: replicas() == {"Echo": 2, "Ingress": 2})
                for request_id in IDS:  # spread over both
                    handle.infer.remote(Echo(model_id="any", text="a"), request_id).result(timeout_s=60)
                for request_id in IDS:
                    told = httpx.get(f"{serve_url}/scaling/requests/{request_id}", timeout=60)
                    assert (told.status_code, told.json()["outcome"]) == (200, "ok")
            finally:
                over.set()
            for caller in asking:
                caller.result(timeout=60)
        wait_until(lambda: replicas() == {"Echo": 1, "Ingress": 1})
    finally:
        serve.delete("scaling")
