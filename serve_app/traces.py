"""Spans of answered requests, exported by OTLP over HTTP.

OpenTelemetry is imported where `ingress.traces` asks for it. Its SDK reads its own variables of the environment: where
it exports to (OTEL_EXPORTER_OTLP_ENDPOINT), what it samples (OTEL_TRACES_SAMPLER), its service's name and others.
"""

from typing import TYPE_CHECKING

from deployments.contract.status import AnsweredRequest

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class Traces:
    """Continues the trace of each request, W3C's `traceparent`, or begins one."""

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        ours = Resource.create({SERVICE_NAME: "model-runtime"})
        self._provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("model_runtime")

    def add(self, request: AnsweredRequest, traceparent: str) -> None:
        """One span for the request and one for each of its stations; a thread exports them later."""
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        caller = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
        arrived, ended = _nanoseconds(request.arrived_at), _nanoseconds(request.arrived_at + request.total_s)
        whole = self._tracer.start_span(
            request.family, caller, SpanKind.SERVER, _attributes(request), start_time=arrived
        )
        if whole.is_recording():
            sent = ended if request.queue_s is None else arrived + _nanoseconds(request.queue_s)
            self._begin("queue", whole, arrived).end(sent)
            if request.queue_s is not None:
                self._add_replica(request, whole, sent).end(ended)
            if request.reason is not None:
                whole.set_status(Status(StatusCode.ERROR, request.reason))
        whole.end(ended)

    def _add_replica(self, request: AnsweredRequest, whole: "Span", sent: int) -> "Span":
        """The stations within lie where they would with no time to send the call: clocks of two machines differ."""
        replica = self._begin("replica", whole, sent)
        replica.set_attribute("model_runtime.replica", request.replica or "")
        replica.set_attribute("model_runtime.repeated", request.repeated)
        if request.load_s is not None:
            leased = sent + _nanoseconds(request.load_s)
            self._begin("load", replica, sent).end(leased)
            if request.compute_s is not None:
                compute = self._begin("compute", replica, leased)
                if request.batch_size is not None:
                    compute.set_attribute("model_runtime.batch_size", request.batch_size)
                if request.first_token_s is not None:
                    compute.add_event("first token", timestamp=leased + _nanoseconds(request.first_token_s))
                if request.preprocess_s is not None:
                    self._begin("preprocess", compute, leased).end(leased + _nanoseconds(request.preprocess_s))
                compute.end(leased + _nanoseconds(request.compute_s))
        return replica

    def _begin(self, name: str, within: "Span", at: int) -> "Span":
        from opentelemetry.trace import set_span_in_context

        return self._tracer.start_span(name, set_span_in_context(within), start_time=at)

    def close(self) -> None:
        """Exports what is left. Waits for it."""
        self._provider.shutdown()


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _attributes(request: AnsweredRequest) -> dict[str, str | int]:
    return {
        "model_runtime.request_id": request.request_id,
        "model_runtime.model": request.model,
        "model_runtime.outcome": request.outcome,
        "model_runtime.tokens": request.tokens,
    }
