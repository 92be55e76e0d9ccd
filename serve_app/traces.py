"""Spans of answered requests, exported by OTLP over HTTP.

OpenTelemetry is imported where `ingress.traces` asks for it. Its SDK reads its own variables of the environment: where
it exports to (OTEL_EXPORTER_OTLP_ENDPOINT), what it samples (OTEL_TRACES_SAMPLER), its service's name and others.
"""

from deployments.contract.status import AnsweredRequest


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
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        caller = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
        arrived, ended = _nanoseconds(request.arrived_at), _nanoseconds(request.arrived_at + request.total_s)
        whole = self._tracer.start_span(
            request.family, caller, SpanKind.SERVER, _attributes(request), start_time=arrived
        )
        if whole.is_recording():
            within = set_span_in_context(whole)
            sent = ended if request.queue_s is None else _nanoseconds(request.arrived_at + request.queue_s)
            self._tracer.start_span("queue", within, start_time=arrived).end(sent)
            if request.queue_s is not None:
                station = self._tracer.start_span("replica", within, start_time=sent)
                station.set_attribute("model_runtime.replica", request.replica or "")
                station.set_attribute("model_runtime.repeated", request.repeated)
                station.end(ended)
            if request.reason is not None:
                whole.set_status(Status(StatusCode.ERROR, request.reason))
        whole.end(ended)

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
