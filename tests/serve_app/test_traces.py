"""Spans of requests, received by a real OTLP receiver: what it decodes of what the exporter sends."""

import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from deployments.contract.status import AnsweredRequest
from serve_app.traces import Traces
from tests.support import PROJECT

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


class Receiver:
    """Takes OTLP over HTTP, in protocol buffers."""

    def __init__(self) -> None:
        self.received: list[ExportTraceServiceRequest] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
                receiver.received.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def spans(self) -> dict[str, Span]:
        """By their names."""
        of_resources = [part for request in self.received for part in request.resource_spans]
        return {span.name: span for part in of_resources for scope in part.scope_spans for span in scope.spans}

    def resource(self) -> dict[str, str]:
        attributes = self.received[0].resource_spans[0].resource.attributes
        return {attribute.key: attribute.value.string_value for attribute in attributes}


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    receiver = Receiver()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()
    thread.join()


def exported(answered: AnsweredRequest, traceparent: str = TRACEPARENT) -> None:
    traces = Traces()
    traces.add(answered, traceparent)
    traces.close()


def seconds(span: Span) -> tuple[float, float]:
    return span.start_time_unix_nano / 1e9, span.end_time_unix_nano / 1e9


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
