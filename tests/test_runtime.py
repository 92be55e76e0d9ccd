"""The application on a real Ray: every entrance, every family, every error, from the outside."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import ray
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from deployments import wire
from deployments.errors import ERRORS, ModelNotFound, ServingError
from deployments.protocol import (
    Error,
    ImageClassification,
    ImageClassificationResult,
    InferRequest,
    InferResponse,
    TextGeneration,
    TextGenerationResult,
)
from serve_app.client import AsyncModelRuntimeClient, ModelRuntimeClient
from tests.conftest import Running, replica_pids, until
from tests.echo import Echo, EchoResult
from tests.engines.text_models import PROMPTS, Reference
from tests.tiny_models import LABELS

pytestmark = pytest.mark.ray

Entrance = Callable[[Running, InferRequest], InferResponse]


def over_http(media_type: str) -> Entrance:
    def infer(runtime: Running, request: InferRequest) -> InferResponse:
        headers = {"content-type": media_type}
        reply = httpx.post(
            f"{runtime.url}/infer", content=wire.encode(request, media_type), headers=headers, timeout=60
        )
        answer = wire.decode(reply.content, media_type, InferResponse)
        if media_type != wire.BINCODE:  # which has no room for the code
            expected = ERRORS[answer.code or ""].status if isinstance(answer, Error) else 200
            assert reply.status_code == expected
        return answer

    return infer


def over_the_handle(runtime: Running, request: InferRequest) -> InferResponse:
    response: InferResponse = runtime.handle.infer.remote(request).result(timeout_s=60)
    return response


def with_the_client(target: str) -> Entrance:
    def infer(runtime: Running, request: InferRequest) -> InferResponse:
        with ModelRuntimeClient(getattr(runtime, target)) as client:
            return raising(lambda: client.infer(request))

    return infer


def with_the_async_client(target: str) -> Entrance:
    def infer(runtime: Running, request: InferRequest) -> InferResponse:
        async def ask() -> InferResponse:
            async with AsyncModelRuntimeClient(getattr(runtime, target)) as client:
                return await client.infer(request)

        return raising(lambda: asyncio.run(ask()))

    return infer


def raising(ask: Callable[[], InferResponse]) -> InferResponse:
    try:
        return ask()
    except ServingError as failure:
        return Error.of(failure)


ENTRANCES: dict[str, Entrance] = {
    "json": over_http(wire.JSON),
    "bincode": over_http(wire.BINCODE),
    "msgpack": over_http(wire.MSGPACK),
    "handle": over_the_handle,
    "client": with_the_client("url"),
    "client-on-handle": with_the_client("handle"),
    "async-client": with_the_async_client("url"),
    "async-client-on-handle": with_the_async_client("handle"),
}


@pytest.fixture(params=ENTRANCES)
def entrance(request: pytest.FixtureRequest) -> Entrance:
    return ENTRANCES[request.param]


def metric(text: str, name: str) -> float:
    """The sum of a metric's series."""
    values = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name)]
    assert values, f"{name} is not there"
    return sum(values)


# Answers --------------------------------------------------------------------------------------------------------


def test_every_entrance_classifies_as_transformers_does(runtime: Running, entrance: Entrance) -> None:
    answer = entrance(runtime, ImageClassification(model_id="image", image_data=runtime.picture.read_bytes()))
    assert isinstance(answer, ImageClassificationResult)
    model = AutoModelForImageClassification.from_pretrained(runtime.models / "image")
    processor = AutoImageProcessor.from_pretrained(runtime.models / "image")
    with torch.inference_mode():
        logits = model.eval()(**processor(Image.open(runtime.picture).convert("RGB"), return_tensors="pt")).logits[0]
    expected = logits.softmax(-1).sort(descending=True)
    assert answer.class_labels == [LABELS[index] for index in expected.indices.tolist()]
    assert answer.probabilities == pytest.approx(expected.values.tolist(), abs=1e-5)


def test_every_entrance_generates_what_transformers_does(runtime: Running, entrance: Entrance) -> None:
    answer = entrance(runtime, TextGeneration(model_id="text", prompt=PROMPTS[0], max_tokens=16))
    assert isinstance(answer, TextGenerationResult)
    assert Reference(runtime.models / "text").agrees(PROMPTS[0], 16, answer.generated_text)


def test_every_entrance_serves_a_family_that_only_the_tests_know(runtime: Running, entrance: Entrance) -> None:
    answer = entrance(runtime, Echo(model_id="any", text="é\n"))
    assert isinstance(answer, EchoResult)
    assert answer.text == "é\n"


def test_nested_ids_and_versions_are_served(runtime: Running) -> None:
    for model_id, name in (
        ("team/nested", "team/nested"),
        ("versioned", "versioned@2"),
        ("versioned@1", "versioned@1"),
    ):
        answer = over_the_handle(runtime, TextGeneration(model_id=model_id, prompt="a", max_tokens=2))
        assert isinstance(answer, TextGenerationResult)
        assert answer.model_id == name


def test_options_beyond_the_union_are_honoured(runtime: Running) -> None:
    image = ImageClassification(model_id="image", image_data=runtime.picture.read_bytes(), top_k=2)
    answer = over_the_handle(runtime, image)
    assert isinstance(answer, ImageClassificationResult)
    assert len(answer.class_labels) == len(answer.probabilities) == 2
    sampled = TextGeneration(model_id="text", prompt="a", max_tokens=20, temperature=1.0, seed=3)
    first, second = over_the_handle(runtime, sampled), over_the_handle(runtime, sampled)
    other = over_the_handle(runtime, sampled.model_copy(update={"seed": 4}))
    assert first == second != other


def test_no_tokens_asked_for_is_an_empty_text_and_too_many_end_at_the_context(runtime: Running) -> None:
    nothing = over_the_handle(runtime, TextGeneration(model_id="text", prompt="a", max_tokens=0))
    assert isinstance(nothing, TextGenerationResult)
    assert nothing.generated_text == ""
    whole = over_the_handle(runtime, TextGeneration(model_id="text", prompt="a", max_tokens=2**32 - 1))
    assert isinstance(whole, TextGenerationResult)
    assert whole.finish_reason in ("length", "stop")


def test_many_callers_at_once_are_all_answered(runtime: Running) -> None:
    picture = runtime.picture.read_bytes()

    def ask(number: int) -> str:
        if number % 2:
            return type(over_the_handle(runtime, ImageClassification(model_id="image", image_data=picture))).__name__
        return type(over_the_handle(runtime, TextGeneration(model_id="text", prompt="a", max_tokens=8))).__name__

    with ThreadPoolExecutor(32) as callers:
        names = list(callers.map(ask, range(64)))
    assert names == ["TextGenerationResult", "ImageClassificationResult"] * 32


# Errors ---------------------------------------------------------------------------------------------------------

FAILURES = {
    "model_not_found": TextGeneration(model_id="../text", prompt="p", max_tokens=1),
    "wrong_family": ImageClassification(model_id="text", image_data=b"x"),
    "invalid_image": ImageClassification(model_id="image", image_data=b"\x89PNG no picture"),
    "prompt_too_long": TextGeneration(model_id="text", prompt="word " * 500, max_tokens=1),
    "model_load_failed": TextGeneration(model_id="broken", prompt="p", max_tokens=1),
    "out_of_memory": TextGeneration(model_id="huge", prompt="p", max_tokens=1),
    "internal": Echo(model_id="any", text="fail"),
}


@pytest.mark.parametrize("code", FAILURES)
def test_every_failure_is_an_error_on_every_entrance(runtime: Running, entrance: Entrance, code: str) -> None:
    answer = entrance(runtime, FAILURES[code])
    assert isinstance(answer, Error)
    assert answer.code in (code, None)  # bincode and exceptions carry what they can
    assert answer.message
    for secret in ("Traceback", "secret", str(runtime.models)):
        assert secret not in answer.message


@pytest.mark.parametrize("body", [b"", b"[]", b'{"TextGeneration":{"model_id":"text","prompt":"p","max_tokens":"1"}}'])
def test_malformed_requests_are_refused_over_http(runtime: Running, body: bytes) -> None:
    reply = httpx.post(f"{runtime.url}/infer", content=body, headers={"content-type": wire.JSON})
    assert reply.status_code == 400
    assert reply.json()["Error"]["code"] == "invalid_request"


def test_an_oversized_body_is_refused(runtime: Running) -> None:
    reply = httpx.post(f"{runtime.url}/infer", content=b"x" * (2**20 + 1), headers={"content-type": wire.JSON})
    assert reply.status_code == 413
    assert reply.json()["Error"]["code"] == "payload_too_large"
    assert reply.json()["Error"]["request_id"] == reply.headers["x-request-id"]


def test_the_handle_refuses_what_is_no_request(runtime: Running) -> None:
    answer = runtime.handle.infer.remote({"TextGeneration": {}}).result(timeout_s=60)
    assert isinstance(answer, Error)
    assert answer.code == "invalid_request"


def test_a_client_raises_the_error_its_code_names(runtime: Running) -> None:
    with ModelRuntimeClient(runtime.url) as client, pytest.raises(ModelNotFound, match="did you mean 'text'"):
        client.generate("texd", "p", max_tokens=1)


def test_a_client_that_reaches_nobody_says_so() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with ModelRuntimeClient(url) as client, pytest.raises(ServingError, match="cannot be reached"):
            client.models()


# Status and metrics ---------------------------------------------------------------------------------------------


def test_models_tell_their_state_and_a_broken_one_its_reason(runtime: Running) -> None:
    for request in (FAILURES["model_load_failed"], TextGeneration(model_id="text", prompt="a", max_tokens=1)):
        over_the_handle(runtime, request)
    with ModelRuntimeClient(runtime.url) as client:
        models = {status.model_id: status for status in client.models()}
    assert models.keys() == {"text", "team/nested", "versioned", "image", "broken", "huge"}
    assert models["text"].state == "ready"
    assert models["text"].resident_bytes[0] > 0
    assert models["huge"].family == "text_generation"
    assert models["versioned"].versions == [1, 2]
    assert models["broken"].state == "failed"
    assert "broken" in (models["broken"].reason or "")


def test_health_and_readiness(runtime: Running) -> None:
    assert httpx.get(f"{runtime.url}/healthz").status_code == 200
    until(lambda: httpx.get(f"{runtime.url}/readyz", timeout=10).status_code == 200)


def test_requests_are_counted_by_model_family_and_outcome(runtime: Running) -> None:
    series = 'inference_requests_total{model="text",family="text_generation",outcome="ok"}'
    over_the_handle(runtime, TextGeneration(model_id="text", prompt="a", max_tokens=1))
    before = metric(httpx.get(f"{runtime.url}/metrics").text, series)
    over_the_handle(runtime, TextGeneration(model_id="text", prompt="a", max_tokens=1))
    over_the_handle(runtime, TextGeneration(model_id="never heard of", prompt="a", max_tokens=1))
    text = httpx.get(f"{runtime.url}/metrics").text
    assert metric(text, series) == before + 1
    assert metric(text, "inference_latency_avg_ms") > 0
    assert "never heard of" not in text
    assert "gpu_utilization_percent" not in text  # the session's GPU is only a number


def test_rays_own_endpoint_has_the_metrics_too(runtime: Running) -> None:
    over_the_handle(runtime, TextGeneration(model_id="text", prompt="a", max_tokens=1))
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    def exported() -> bool:
        text = httpx.get(url).text
        wanted = ("ray_inference_requests_total{", "ray_inference_latency_avg_ms{", "ray_inference_latency_ms_bucket{")
        return all(name in text for name in wanted)

    until(exported)


# Placement and faults -------------------------------------------------------------------------------------------


def test_two_families_share_one_gpu(runtime: Running) -> None:
    assert ray.available_resources()["GPU"] == pytest.approx(0.25)  # three replicas with a quarter each


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

    until(counted)
