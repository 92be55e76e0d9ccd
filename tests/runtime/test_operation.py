"""What an operator sees and does: status, metrics, placement, killed processes."""

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import ray

from deployments.contract.types import ImageClassification, TextGeneration
from serve_app.client import ModelRuntimeClient
from serve_app.dispatch.serve_internals import message_about
from serve_app.ingress import Ingress
from tests.runtime.test_errors import FAILURES
from tests.support.echo import Echo
from tests.support.entrances import over_the_handle
from tests.support.running import Running, replica_pids
from tests.support.until import wait_until


def metric(text: str, name: str) -> float:
    """The sum of a metric's series."""
    values = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name)]
    assert values, f"{name} is not there"
    return sum(values)


def test_models_tell_their_state_and_a_broken_one_its_reason(runtime: Running) -> None:
    image = ImageClassification(model_id="image", image_data=runtime.picture.read_bytes())
    for request in (FAILURES["model_load_failed"], TextGeneration(model_id="text", prompt="a", max_tokens=1), image):
        over_the_handle(runtime, request)
    with ModelRuntimeClient(runtime.url) as client:
        models = {status.model_id: status for status in client.models()}
    assert models.keys() == {
        "text",
        "team/nested",
        "versioned",
        "image",
        "detector",
        "encoder",
        "speech",
        "broken",
        "huge",
    }
    assert models["text"].state == "ready"
    assert models["text"].resident_bytes[0] > 0
    assert any("largest batch" in note for note in models["image"].notes)
    assert models["huge"].family == "text_generation"
    assert models["versioned"].versions == [1, 2]
    assert models["broken"].state == "failed"
    assert "broken" in (models["broken"].reason or "")


def test_health_and_readiness(runtime: Running) -> None:
    assert httpx.get(f"{runtime.url}/healthz").status_code == 200
    wait_until(lambda: httpx.get(f"{runtime.url}/readyz", timeout=10).status_code == 200)


def test_serve_says_nothing_of_a_deployment_that_runs(runtime: Running) -> None:
    assert asyncio.run(message_about(runtime.handle)) == ""


def test_requests_are_counted_by_model_family_and_outcome(runtime: Running) -> None:
    series = 'inference_requests_total{family="text_generation",model="text",outcome="ok"}'
    over_the_handle(runtime, TextGeneration(model_id="text", prompt="a", max_tokens=1))
    before = metric(httpx.get(f"{runtime.url}/metrics").text, series)
    over_the_handle(runtime, TextGeneration(model_id="text", prompt="a", max_tokens=1))
    over_the_handle(runtime, TextGeneration(model_id="never heard of", prompt="a", max_tokens=1))
    text = httpx.get(f"{runtime.url}/metrics").text
    assert metric(text, series) == before + 1
    assert metric(text, "inference_latency_avg_ms") > 0
    assert "never heard of" not in text
    assert "gpu_utilization_percent" not in text  # the session's GPU is only a number


def test_the_cpu_seconds_of_each_model_are_published(runtime: Running) -> None:
    def used() -> float:
        text = httpx.get(f"{runtime.url}/metrics", timeout=30).text
        return metric(text, 'model_cpu_seconds_total{model="text"}')

    over_the_handle(runtime, TextGeneration(model_id="text", prompt="a", max_tokens=8))
    wait_until(lambda: used() > 0)
    before = used()
    for _ in range(20):
        over_the_handle(runtime, TextGeneration(model_id="text", prompt="a", max_tokens=64))
    wait_until(lambda: used() > before)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what a process has loaded cannot be seen")
def test_the_ingress_loads_no_model(runtime: Running) -> None:
    """Not even what could load one."""
    over_the_handle(runtime, TextGeneration(model_id="text", prompt="a", max_tokens=1))
    for deployment, torch_there in (("Ingress", False), ("TextGeneration", True)):
        for pid in replica_pids("model-runtime", deployment):
            assert ("libtorch" in Path(f"/proc/{pid}/maps").read_text()) == torch_there


def test_rays_own_endpoint_has_the_metrics_too(runtime: Running) -> None:
    over_the_handle(runtime, TextGeneration(model_id="text", prompt="a", max_tokens=1))
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    def exported() -> bool:
        text = httpx.get(url).text
        wanted = (
            *("ray_inference_requests_total{", "ray_inference_latency_avg_ms{", "ray_inference_latency_ms_bucket{"),
            *("ray_text_generated_tokens_total{", "ray_model_cpu_seconds_total{", "ray_model_resident_bytes{"),
            *("ray_inference_request_duration_seconds_bucket{", "ray_inference_compute_duration_seconds_bucket{"),
        )
        return all(name in text for name in wanted)

    wait_until(exported)


def test_families_share_one_gpu(runtime: Running) -> None:
    """Each replica has a quarter, that of the detector as long as a test's request keeps it."""

    def shared() -> bool:
        names = ("Echo", "ImageClassification", "ObjectDetection", "TextGeneration")
        replicas = sum(len(replica_pids("model-runtime", name)) for name in names)
        return replicas > 2 and ray.available_resources().get("GPU", 0) == pytest.approx(1 - replicas / 4)

    wait_until(shared)


def test_a_killed_replica_costs_no_request(runtime: Running) -> None:
    text = TextGeneration(model_id="text", prompt="a", max_tokens=90)
    over_the_handle(runtime, text)
    counted = metric(httpx.get(f"{runtime.url}/metrics").text, "inference_requests_total")
    (victim,) = replica_pids("model-runtime", "TextGeneration")
    with ThreadPoolExecutor(8) as callers:
        answers = [callers.submit(over_the_handle, runtime, text) for _ in range(16)]
        os.kill(victim, signal.SIGKILL)
        names = {type(answer.result(timeout=60)).__name__ for answer in answers}
    assert names == {"TextGenerationResult"}
    assert metric(httpx.get(f"{runtime.url}/metrics").text, "inference_requests_total") >= counted + 16


def test_counts_survive_a_killed_ingress(runtime: Running) -> None:
    over_the_handle(runtime, Echo(model_id="any", text="x"))
    before = metric(httpx.get(f"{runtime.url}/metrics").text, "inference_requests_total")
    (victim,) = replica_pids("model-runtime", "Ingress")
    os.kill(victim, signal.SIGKILL)

    def counted() -> bool:
        try:
            reply = httpx.get(f"{runtime.url}/metrics", timeout=5)
        except httpx.TransportError:
            return False
        return reply.status_code == 200 and metric(reply.text, "inference_requests_total") >= before

    wait_until(counted)


async def test_an_ingress_that_follows_the_registry_no_more_is_unhealthy() -> None:
    following = asyncio.create_task(asyncio.Event().wait())
    listening = asyncio.create_task(asyncio.sleep(0))
    ingress = SimpleNamespace(_lasting=[following], _listening=listening)
    await Ingress.check_health(ingress)  # type: ignore[arg-type]  # of an Ingress, it looks at its tasks alone
    following.cancel()
    await asyncio.wait([following])
    with pytest.raises(RuntimeError):
        await Ingress.check_health(ingress)  # type: ignore[arg-type]
