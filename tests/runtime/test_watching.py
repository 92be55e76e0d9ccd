"""What became of a request: by its id, in the log, and in the trace of whoever asked."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.running import Running
from tests.support.until import wait_until
from tests.support.watching.otlp import Receiver, seconds

TRACE, CALLERS_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def asked(runtime: Running, request: dict[str, Any], request_id: str, **headers: str) -> dict[str, Any]:
    """What is said of the request afterwards."""
    infer = f"{runtime.url}/infer"
    httpx.post(infer, json=request, headers={"x-request-id": request_id, **headers}, timeout=120).raise_for_status()
    explained: dict[str, Any] = httpx.get(f"{runtime.url}/requests/{request_id}").raise_for_status().json()
    return explained


def of_the_picture(runtime: Running) -> dict[str, Any]:
    return {"ImageClassification": {"model_id": "image", "image_data": list(runtime.picture.read_bytes())}}


def test_a_trace_reaches_from_its_caller_into_the_replica(runtime: Running, collector: Receiver) -> None:
    explained = asked(runtime, of_the_picture(runtime), "traced", traceparent=f"00-{TRACE}-{CALLERS_SPAN}-01")
    stations = {"image_classification", "queue", "replica", "load", "compute"}
    wait_until(lambda: stations <= collector.spans(TRACE).keys(), "the spans")
    spans = collector.spans(TRACE)
    whole, compute = spans["image_classification"], spans["compute"]
    assert whole.parent_span_id.hex() == CALLERS_SPAN
    assert spans["queue"].parent_span_id == spans["replica"].parent_span_id == whole.span_id
    assert spans["load"].parent_span_id == compute.parent_span_id == spans["replica"].span_id
    took = {name: ended - began for name, (began, ended) in ((name, seconds(span)) for name, span in spans.items())}
    assert took["load"] + took["compute"] <= took["replica"]
    assert took["compute"] == pytest.approx(explained["compute_s"], abs=1e-6)
    assert {one.key: one.value.int_value for one in compute.attributes} == {"model_runtime.batch_size": 1}


def test_a_request_is_explained_station_by_station(runtime: Running) -> None:
    text = {"TextGeneration": {"model_id": "text", "prompt": "a", "max_tokens": 2}}
    explained = asked(runtime, text, "a-text")
    assert (explained["outcome"], explained["batch_size"], explained["preprocess_s"]) == ("ok", 1, None)
    assert 0 < explained["first_token_s"] <= explained["compute_s"]
    assert explained["queue_s"] + explained["load_s"] + explained["compute_s"] <= explained["total_s"]
    explained = asked(runtime, {"TextEmbedding": {"model_id": "encoder", "texts": ["a", "b", "c"]}}, "texts")
    assert explained["batch_size"] == 3


def test_a_request_is_a_line_of_the_ingresss_file(runtime: Running) -> None:
    from ray.serve._private.logging_utils import get_serve_logs_dir

    explained = asked(runtime, of_the_picture(runtime), "logged")
    files = list(Path(get_serve_logs_dir()).glob("replica_model-runtime_Ingress_*.log"))

    def lines() -> list[dict[str, Any]]:
        texts = [line for file in files for line in file.read_text("utf-8").splitlines() if '"logged"' in line]
        return [json.loads(text) for text in texts]

    [line] = wait_until(lines, "the line")
    assert line["message"].startswith("ok image_classification image in ")
    assert {name: line[name] for name in explained} == explained
    assert (line["levelname"], line["deployment"]) == ("INFO", "model-runtime_Ingress")
