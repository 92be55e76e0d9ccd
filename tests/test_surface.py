"""What callers and operators rely on, listed literally as it was at commit 3652915. A new entry is added here; none of
these may be removed or renamed."""

import inspect
import re
from typing import get_args

import httpx
import pytest
import yaml
from ray.serve import Application
from starlette.routing import Route

from deployments.contract import wire
from deployments.contract.types import InferRequest, InferResponse
from serve_app.access.api_keys import KeySettings
from serve_app.app import build
from serve_app.cli.main import main
from serve_app.client import AsyncModelRuntimeClient, ModelRuntimeClient
from serve_app.config.config import RuntimeConfig
from serve_app.grpc.generate import FILE, proto
from serve_app.local import start_or_join
from tests.support.http_runtimes import FakeRuntime, http_app
from tests.support.running import Running
from tests.support.until import wait_until

ROUTES = """
POST /infer
POST /infer/batch
GET /models
POST /models/{model_id:path}/load
POST /models/{model_id:path}/unload
POST /models/{model_id:path}/pin
POST /models/{model_id:path}/unpin
POST /models/{model_id:path}/plan
GET /models/{model_id:path}
GET /healthz
GET /health
GET /readyz
GET /metrics
GET /requests/{request_id}
GET /quarantine
DELETE /quarantine/{digest}
GET /openapi.json
GET /docs
GET /
GET /v1/models
GET /v1/models/{model_id:path}
POST /v1/completions
POST /v1/chat/completions
POST /v1/responses
POST /v1/embeddings
POST /v1/audio/transcriptions
POST /v1/audio/translations
GET /v2
GET /v2/health/live
GET /v2/health/ready
GET /v2/models/{model_id:path}
GET /v2/models/{model_id:path}/ready
GET /v2/models/{model_id:path}/versions/{version}
GET /v2/models/{model_id:path}/versions/{version}/ready
POST /v2/models/{model_id:path}/infer
POST /v2/models/{model_id:path}/versions/{version}/infer
"""

METRICS = {
    "inference_requests_total": "counter",
    "inference_latency_avg_ms": "gauge",
    "gpu_utilization_percent": "gauge",
    "model_cpu_seconds_total": "counter",
    "text_requests_running": "gauge",
    "text_requests_waiting": "gauge",
    "text_cache_bytes": "gauge",
    "text_cache_used_bytes": "gauge",
    "text_prompt_tokens_total": "counter",
    "text_prompt_tokens_shared_total": "counter",
    "text_generated_tokens_total": "counter",
    "text_draft_tokens_total": "counter",
    "text_draft_tokens_accepted_total": "counter",
    "text_queue_seconds": "histogram",
    "text_time_to_first_token_seconds": "histogram",
    "text_inter_token_seconds": "histogram",
    "inference_request_duration_seconds": "histogram",
    "inference_queue_duration_seconds": "histogram",
    "inference_preprocess_duration_seconds": "histogram",
    "inference_compute_duration_seconds": "histogram",
    "inference_batch_size": "histogram",
    "inference_retries_total": "counter",
    "inference_quarantined_total": "counter",
    "api_key_requests_total": "counter",
    "api_key_tokens_total": "counter",
    "model_load_duration_seconds": "histogram",
    "model_loads_total": "counter",
    "model_evictions_total": "counter",
    "model_resident_bytes": "gauge",
    "replica_memory_budget_bytes": "gauge",
    "replica_memory_used_bytes": "gauge",
    "replica_process_bytes": "gauge",
}
SOMETIMES = {
    "gpu_utilization_percent",
    "inference_preprocess_duration_seconds",
    "inference_retries_total",
    "inference_quarantined_total",
    "api_key_requests_total",
    "api_key_tokens_total",
}
"""Metrics that need a GPU, a large picture, a lost replica, or keys."""

INGRESS_AUTOSCALING = "min_replicas max_replicas target_ongoing_requests upscale_delay_s downscale_delay_s"
AUTOSCALING = INGRESS_AUTOSCALING + " target_queue_s"
FAMILY = """
num_cpus num_gpus accelerator_type required_mem_mb max_cpu_share max_ongoing_requests max_queued_requests
max_queued_per_model max_batch_size deadline_s max_deadline_s unload_idle_s preload
"""
IMAGES = "max_megapixels decode_budget_mb"  # In 3652915 text_generation accepted them as well, without effect.

CONFIGURATION = {
    "": "models sources link_targets cache host tls_cert tls_key grpc_port ray_dashboard quarantine_s",
    "ingress.": "num_cpus max_body_mb max_held_mb max_prompt_kb allowed_origins access_log traces home_page",
    "ingress.autoscaling.": INGRESS_AUTOSCALING,
    "families.image_classification.": FAMILY + IMAGES,
    "families.image_classification.autoscaling.": AUTOSCALING,
    "families.text_generation.": FAMILY + "folder_defaults",
    "families.text_generation.autoscaling.": AUTOSCALING,
    "families.object_detection.": FAMILY + IMAGES,
    "families.object_detection.autoscaling.": AUTOSCALING,
    "families.speech_to_text.": FAMILY + "max_audio_s audio_budget_mb",
    "families.speech_to_text.autoscaling.": AUTOSCALING,
    "families.text_embedding.": FAMILY,
    "families.text_embedding.autoscaling.": AUTOSCALING,
    "access.": "keys",
}
KEY = "sha256 administrator metrics_only share may_prioritise requests_per_second burst requests_per_day tokens_per_day"

COMMANDS = {
    "serve": "--models --port --config",
    "infer image": "--top-k --url --key-file model file",
    "infer detect": "--threshold --top-k --output --url --key-file model file",
    "infer embed": "--input-type --dimensions --url --key-file model text",
    "infer speech": "--language --task --timestamps --stream --url --key-file model file",
    "infer text": "--max-tokens --temperature --seed --stream --url --key-file model prompt",
    "infer json": "--url --key-file request",
    "models": "--json --url --key-file {show,load,unload,pin,unpin,plan} model",
    "quarantine": "--json --url --key-file {lift} digest",
    "bench": """--model --requests --trace --speed --connections | --rate --seconds --warm-up --slo --seed --save
        --key-file URL""",
    "top": "--every --url --key-file",
    "doctor": "--port --json --models --config",
    "completion": "{bash,zsh,tcsh}",
    "keys new": "--administrator | --metrics-only name",
    "config": "--config --models --check",
}

MEDIA_TYPES = {"application/json", "application/x-bincode", "application/msgpack"}
REQUESTS = {"ImageClassification": 0, "TextGeneration": 1, "ObjectDetection": 2, "TextEmbedding": 4, "SpeechToText": 3}
RESPONSES = {
    "ImageClassificationResult": 0,
    "TextGenerationResult": 1,
    "Error": 2,
    "ObjectDetectionResult": 3,
    "SpeechToTextResult": 4,
    "TextEmbeddingResult": 5,
}

CLIENT = {
    "classify": "model_id image top_k",
    "detect": "model_id image threshold top_k",
    "embed": "model_id texts",
    "generate": "model_id prompt max_tokens",
    "generate_stream": "model_id prompt max_tokens",
    "transcribe": "model_id audio",
    "infer": "request",
    "models": "",
    "warnings": "",
    "model": "model_id",
    "load": "model_id",
    "unload": "model_id",
    "pin": "model_id pinned",
    "plan": "model_id",
    "quarantine": "",
    "lift": "digest",
    "close": "",
}


def test_the_protocol_buffers_have_every_variant_and_field() -> None:
    before = FILE.read_text("utf-8")
    assert proto(before) == before, "the contract has changed: run `make proto`, and commit what it writes"


def test_the_http_routes() -> None:
    routes = [route for route in http_app(FakeRuntime()).routes if isinstance(route, Route)]
    listed = {f"{method} {route.path}" for route in routes for method in (route.methods or set()) - {"HEAD"}}
    assert listed == set(ROUTES.strip().splitlines())


@pytest.mark.ray
def test_the_metrics_and_their_types(runtime: Running) -> None:
    with ModelRuntimeClient(runtime.url) as client:
        client.classify("image", runtime.picture)
        client.generate("text", "Once", 2)
    seen: dict[str, str] = {}

    def all_there() -> bool:
        text = httpx.get(f"{runtime.url}/metrics").text
        seen.update(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
        return seen.keys() >= METRICS.keys() - SOMETIMES

    wait_until(all_there, "every metric")
    assert METRICS.items() >= seen.items()


def keys_in(value: object, prefix: str = "") -> set[str]:
    if not isinstance(value, dict) or not value:
        return {prefix.removesuffix(".")}
    return {key for name, inner in value.items() for key in keys_in(inner, f"{prefix}{name}.")}


def test_the_configuration_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config"]) == 0
    expected = {f"{prefix}{name}" for prefix, names in CONFIGURATION.items() for name in names.split()}
    assert keys_in(yaml.safe_load(capsys.readouterr().out)) == expected
    assert list(KeySettings.model_fields) == KEY.split()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_and_their_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    usage = " ".join(capsys.readouterr().out.split("\n\n")[0].split()).partition(f"model-runtime {command} ")[2]
    words = re.sub(r"(--[a-z-]+) [A-Z_]+", r"\1", usage.replace("[-h]", "")).translate({ord("["): " ", ord("]"): " "})
    assert set(words.split()) == set(COMMANDS[command].split())


def test_the_media_types_and_the_bincode_indexes() -> None:
    assert set(wire.MEDIA_TYPES) == MEDIA_TYPES
    for union, expected in ((InferRequest, REQUESTS), (InferResponse, RESPONSES)):
        ours = [kind for kind in union.variants.values() if kind.__module__.startswith("deployments.")]
        assert {kind.__name__: kind.index for kind in ours} == expected


@pytest.mark.parametrize("client", [ModelRuntimeClient, AsyncModelRuntimeClient])
def test_the_clients_methods(client: type) -> None:
    for method, names in CLIENT.items():
        parameters = list(inspect.signature(getattr(client, method)).parameters)
        assert parameters[1 : 1 + len(names.split())] == names.split()


def test_the_functions_that_start_the_runtime() -> None:
    assert list(inspect.signature(build).parameters) == ["args"]
    assert inspect.signature(build).return_annotation is Application
    # Serve hands it a mapping: it says itself what is wrong there, in one line each.
    assert RuntimeConfig in get_args(inspect.get_annotations(build)["args"])
    assert list(inspect.signature(start_or_join).parameters) == ["port", "config"]
    assert list(inspect.signature(ModelRuntimeClient).parameters) == ["target", "timeout_s", "api_key"]
