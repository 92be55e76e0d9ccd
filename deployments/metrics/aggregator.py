"""One aggregator per runtime adds up all reports, outlives the recorders, and writes Prometheus' text format.

`inference_requests_total` (model, family, outcome), `inference_latency_avg_ms` (the last 60 s) and
`gpu_utilization_percent` (absent without a GPU) are served under these names at /metrics, with what the families
report of their models, and through Ray's own metrics with its prefix `ray_`.
"""

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_exposition
from ray.util.metrics import Counter, Gauge

from deployments.metrics.requests import UNKNOWN, WINDOW_S, Labels, Report
from deployments.metrics.samples import ModelMetric
from deployments.metrics.totals import Labels as Pairs
from deployments.metrics.totals import ModelTotals

REQUESTS = ("inference_requests_total", "Requests answered.")
LATENCY = ("inference_latency_avg_ms", "Mean latency of the requests of the last 60 s, in milliseconds.")
GPU = ("gpu_utilization_percent", "Mean utilisation of the GPUs in use.")
RECORDERS = 256
"""More than live at once. Of more, the least recent report is forgotten; the requests in it stay counted."""


class MetricsAggregator:
    """Adds up the reports of all recorders, also of those that have ended. One actor for the whole runtime."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._reports: dict[str, Report] = {}
        self._requests: Tally[Labels] = Tally()
        self._models = ModelTotals(clock, self._to_ray)
        self._of_ray: dict[str, Counter | Gauge] = {}
        self._counter = Counter(*REQUESTS, tag_keys=Labels._fields)
        self._latency = Gauge(*LATENCY)
        self._gpu = Gauge(*GPU)

    def report(self, report: Report) -> None:
        before = self._reports.pop(report.recorder, None)
        for labels, count in report.requests.items():
            new = count - (before.requests.get(labels, 0) if before else 0)
            if new > 0:
                self._requests[labels] += new
                self._counter.inc(new, labels._asdict())
        self._reports[report.recorder] = report
        while len(self._reports) > RECORDERS:
            del self._reports[next(iter(self._reports))]
        self._models.add(report.models)
        self._models.show_gauges()
        self._forget_models()
        self._latency.set(self.latency_avg_ms())
        if (gpu := self.gpu_utilization_percent()) is not None:
            self._gpu.set(gpu)

    def _forget_models(self) -> None:
        """Those that no live recorder knows. One that does not know any yet keeps them all."""
        known = [report.known for report in self._live()]
        names = {"", UNKNOWN}.union(*(one for one in known if one is not None))
        if None not in known:
            self._models.forget_all_but(names)
            for labels in [labels for labels in self._requests if labels.model not in names]:
                del self._requests[labels]

    def _live(self) -> list[Report]:
        return [report for report in self._reports.values() if report.at >= self.clock() - WINDOW_S]

    def _to_ray(self, metric: ModelMetric, labels: Pairs, value: float) -> None:
        """Counters and gauges become Ray's metrics here; histograms are observed where they are measured."""
        ours = self._of_ray.get(metric.name)
        if ours is None:
            kind = Counter if metric.kind == "counter" else Gauge
            ours = self._of_ray[metric.name] = kind(metric.name, metric.help, tuple(name for name, _ in labels))
        if isinstance(ours, Gauge):
            ours.set(value, dict(labels))
        elif value > 0:
            ours.inc(value, dict(labels))

    def latency_avg_ms(self) -> float:
        """Sum over count of the last 60 s; 0 where nothing ended in them."""
        oldest = self.clock() - WINDOW_S
        recent = [second for report in self._reports.values() for second in report.seconds if second.at >= oldest]
        requests = sum(second.requests for second in recent)
        return sum(second.latency_ms for second in recent) / requests if requests else 0.0

    def gpu_utilization_percent(self) -> float | None:
        """Mean over the distinct GPUs in use; None without one."""
        gpus = {gpu: percent for report in self._live() for gpu, percent in report.gpus.items()}
        return sum(gpus.values()) / len(gpus) if gpus else None

    def render(self, openmetrics: bool = False) -> str:
        """Everything in Prometheus' text format 0.0.4, or in OpenMetrics 1.0."""
        return (openmetrics_exposition if openmetrics else generate_latest)(self).decode()

    def collect(self) -> Iterator[Metric]:
        """For prometheus_client."""
        requests = CounterMetricFamily(*REQUESTS, labels=Labels._fields)
        for labels, count in sorted(self._requests.items()):
            requests.add_metric(labels, count)
        yield requests
        yield GaugeMetricFamily(*LATENCY, round(self.latency_avg_ms(), 3))
        if (gpu := self.gpu_utilization_percent()) is not None:
            yield GaugeMetricFamily(*GPU, round(gpu, 1))
        yield from self._models.collect()
