"""Spans of requests, received by a real OTLP receiver: what it decodes of what the exporter sends."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from deployments.contract.status import AnsweredRequest
from serve_app.traces import Traces
from tests.support import PROJECT
from tests.support.watching.otlp import Receiver, receiving, seconds

TRACE, CALLERS_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLERS_SPAN}-01"
ANSWERED = AnsweredRequest(
    request_id="r",
    arrived_at=1000.0,
    key="",
    family="text_generation",
    model="m",
    outcome="ok",
    reason=None,
    queue_s=0.25,
    total_s=1.0,
    replica="abc",
    repeated=False,
    tokens=22,
)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        yield receiver


def exported(answered: AnsweredRequest, traceparent: str = TRACEPARENT) -> None:
    traces = Traces()
    traces.add(answered, traceparent)
    traces.close()


def test_the_callers_trace_is_continued_by_a_span_for_the_request_and_one_for_each_station(receiver: Receiver) -> None:
    exported(ANSWERED)
    spans = receiver.spans()
    assert {name: seconds(span) for name, span in spans.items()} == {
        "text_generation": (1000.0, 1001.0),
        "queue": (1000.0, 1000.25),
        "replica": (1000.25, 1001.0),
    }
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    whole = spans["text_generation"]
    assert (whole.parent_span_id.hex(), whole.kind) == (CALLERS_SPAN, Span.SPAN_KIND_SERVER)
    assert {spans[name].parent_span_id for name in ("queue", "replica")} == {whole.span_id}
    said = {attribute.key: attribute.value for attribute in whole.attributes}
    assert said["model_runtime.request_id"].string_value == "r"
    assert said["model_runtime.tokens"].int_value == 22


def test_what_its_replica_says_of_a_request_lies_within_the_replicas_span(receiver: Receiver) -> None:
    exported(replace(ANSWERED, load_s=0.25, preprocess_s=0.125, first_token_s=0.2, compute_s=0.375, batch_size=3))
    spans = receiver.spans()
    replica, compute = spans["replica"], spans["compute"]
    assert {name: seconds(spans[name]) for name in ("load", "compute", "preprocess")} == {
        "load": (1000.25, 1000.5),
        "compute": (1000.5, 1000.875),
        "preprocess": (1000.5, 1000.625),
    }
    assert spans["load"].parent_span_id == compute.parent_span_id == replica.span_id
    assert spans["preprocess"].parent_span_id == compute.span_id
    assert [(one.key, one.value.int_value) for one in compute.attributes] == [("model_runtime.batch_size", 3)]
    assert [(one.name, one.time_unix_nano / 1e9) for one in compute.events] == [("first token", 1000.7)]


def test_a_request_that_was_refused_before_a_replica_had_it_says_why(receiver: Receiver) -> None:
    exported(replace(ANSWERED, outcome="overloaded", reason="the queue is full", queue_s=None))
    spans = receiver.spans()
    assert spans.keys() == {"text_generation", "queue"}
    assert seconds(spans["queue"]) == (1000.0, 1001.0)
    status = spans["text_generation"].status
    assert (status.code, status.message) == (Status.STATUS_CODE_ERROR, "the queue is full")


@pytest.mark.parametrize("traceparent", ["", "nonsense", f"00-{'0' * 32}-{CALLERS_SPAN}-01"])
def test_a_request_without_a_trace_begins_one(receiver: Receiver, traceparent: str) -> None:
    exported(ANSWERED, traceparent)
    whole = receiver.spans()["text_generation"]
    assert len(whole.trace_id) == 16
    assert whole.parent_span_id == b""


def test_what_the_caller_does_not_sample_is_not_exported(receiver: Receiver) -> None:
    exported(ANSWERED, TRACEPARENT.removesuffix("01") + "00")
    assert receiver.received == []


def test_the_service_has_a_name_unless_the_environment_gives_another(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(ANSWERED)
    assert receiver.resource()["service.name"] == "model-runtime"
    receiver.received.clear()
    monkeypatch.setenv("OTEL_SERVICE_NAME", "vision")
    exported(ANSWERED)
    assert receiver.resource()["service.name"] == "vision"


def test_opentelemetry_is_imported_only_where_traces_are_asked_for() -> None:
    check = "import sys, serve_app.traces; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", check], cwd=PROJECT, check=False).returncode == 0
