"""The runtime's three metrics: each ingress replica records, one board per runtime adds up and outlives them all.

`inference_requests_total` (model, family, outcome), `inference_latency_avg_ms` (the last 60 s) and
`gpu_utilization_percent` (absent without a GPU) are served under these names at /metrics, and through Ray's own
metrics with its prefix `ray_`, together with the histogram `ray_inference_latency_ms`.
"""

import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ray.util.metrics import Counter, Gauge, Histogram

from deployments.metrics.samples import Measured, Measures, escaped

WINDOW_S = 60
RECORDERS = 256
"""More than live at once. The reports of those heard of least recently are forgotten; what they counted is not."""
LATENCY_BUCKETS_MS = [1.0, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000, 60000]


@dataclass(frozen=True, slots=True)
class Labels:
    """What one request is counted under. `outcome` is "ok" or an error code."""

    model: str
    family: str
    outcome: str


@dataclass(slots=True)
class Second:
    """Requests that ended within one second of the wall clock."""

    at: int
    requests: int = 0
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """All that one recorder has seen: cumulative, so that a report may be lost or sent twice."""

    recorder: str
    at: float
    """Wall clock, seconds."""
    requests: dict[Labels, int]
    seconds: list[Second]
    gpus: dict[str, float] = field(default_factory=dict)
    """Utilisation in percent by the GPU's unique id."""
    measured: list[Measured] = field(default_factory=list)
    """What the families measure of their models."""


class Recorder:
    """Counts the requests of one ingress replica."""

    def __init__(self, name: str, clock: Callable[[], float] = time.time) -> None:
        self.name = name
        self.clock = clock
        self._requests: Tally[Labels] = Tally()
        self._seconds: deque[Second] = deque(maxlen=WINDOW_S + 1)
        self._histogram = Histogram(
            "inference_latency_ms",
            "Time from a request's arrival at the ingress to its answer, in milliseconds.",
            boundaries=LATENCY_BUCKETS_MS,
            tag_keys=("model", "family"),
        )

    def record(self, labels: Labels, latency_ms: float) -> None:
        self._requests[labels] += 1
        now = int(self.clock())
        if not self._seconds or self._seconds[-1].at != now:
            self._seconds.append(Second(now))
        self._seconds[-1].requests += 1
        self._seconds[-1].latency_ms += latency_ms
        self._histogram.observe(latency_ms, {"model": labels.model, "family": labels.family})

    def report(self, gpus: dict[str, float], measured: list[Measured]) -> Report:
        return Report(self.name, self.clock(), dict(self._requests), list(self._seconds), gpus, measured)


class MetricsAggregator:
    """Adds up the reports of all recorders, also of those that are gone. One actor for the whole runtime."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._reports: dict[str, Report] = {}
        self._requests: Tally[Labels] = Tally()
        self._measures = Measures(clock)
        self._counter = Counter(
            "inference_requests_total", "Requests answered.", tag_keys=("model", "family", "outcome")
        )
        self._latency = Gauge("inference_latency_avg_ms", "Mean latency of the last 60 s, in milliseconds.")
        self._gpu = Gauge("gpu_utilization_percent", "Mean utilisation of the GPUs in use.")

    def report(self, report: Report) -> None:
        before = self._reports.pop(report.recorder, None)
        for labels, count in report.requests.items():
            new = count - (before.requests.get(labels, 0) if before else 0)
            if new > 0:
                self._requests[labels] += new
                self._counter.inc(new, {"model": labels.model, "family": labels.family, "outcome": labels.outcome})
        self._reports[report.recorder] = report
        while len(self._reports) > RECORDERS:
            del self._reports[next(iter(self._reports))]
        self._measures.add(report.measured)
        self._latency.set(self.latency_avg_ms())
        gpu = self.gpu_utilization_percent()
        if gpu is not None:
            self._gpu.set(gpu)

    def latency_avg_ms(self) -> float:
        """Sum over count of the last 60 s; 0 where nothing ended in them."""
        oldest = self.clock() - WINDOW_S
        recent = [second for report in self._reports.values() for second in report.seconds if second.at >= oldest]
        requests = sum(second.requests for second in recent)
        return sum(second.latency_ms for second in recent) / requests if requests else 0.0

    def gpu_utilization_percent(self) -> float | None:
        """Mean over the distinct GPUs in use; None without one."""
        live = [report for report in self._reports.values() if report.at >= self.clock() - WINDOW_S]
        gpus = {gpu: percent for report in live for gpu, percent in report.gpus.items()}
        return sum(gpus.values()) / len(gpus) if gpus else None

    def render(self) -> str:
        """The three metrics, and what the families measure, in Prometheus' text format."""
        lines = ["# HELP inference_requests_total Requests answered.", "# TYPE inference_requests_total counter"]
        for labels, count in sorted(self._requests.items(), key=lambda item: str(item[0])):
            tags = f'model="{escaped(labels.model)}",family="{labels.family}",outcome="{labels.outcome}"'
            lines.append(f"inference_requests_total{{{tags}}} {count}")
        lines += [
            "# HELP inference_latency_avg_ms Mean latency of the requests of the last 60 s, in milliseconds.",
            "# TYPE inference_latency_avg_ms gauge",
            f"inference_latency_avg_ms {self.latency_avg_ms():.3f}",
        ]
        gpu = self.gpu_utilization_percent()
        if gpu is not None:
            lines += [
                "# HELP gpu_utilization_percent Mean utilisation of the GPUs in use.",
                "# TYPE gpu_utilization_percent gauge",
                f"gpu_utilization_percent {gpu:.1f}",
            ]
        return "\n".join([*lines, *self._measures.render()]) + "\n"
