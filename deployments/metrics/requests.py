"""What each ingress replica counts of its requests, reported to the aggregator.

Ray's own metrics get the histogram `ray_inference_latency_ms` as well.
"""

import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from ray.util.metrics import Histogram

from deployments.metrics.meter import REQUEST, Meter
from deployments.metrics.samples import ModelReport

UNKNOWN = "unknown"
"""A model or family that there is not."""
WINDOW_S = 60
LATENCY_BUCKETS_MS = [1.0, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000, 60000]


class Labels(NamedTuple):
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
    """Everything that one recorder counted so far: cumulative, so that a report may be lost or sent twice."""

    recorder: str
    at: float
    """Wall clock, seconds."""
    requests: dict[Labels, int]
    seconds: list[Second]
    gpus: dict[str, float] = field(default_factory=dict)
    """Utilisation in percent by the GPU's unique id."""
    models: list[ModelReport] = field(default_factory=list)
    """What the ingress has measured, and what the families report of their models."""
    known: frozenset[str] | None = None
    """The names of all models there are; None before they are known."""


class Recorder:
    """Counts the requests of one ingress replica."""

    def __init__(self, name: str, clock: Callable[[], float] = time.time) -> None:
        self.name = name
        self.clock = clock
        self.meter = Meter(name)
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
        self.meter.observe(REQUEST, latency_ms / 1000, labels.model, labels.family)

    def report(self, gpus: dict[str, float], models: list[ModelReport], known: frozenset[str] | None = None) -> Report:
        measured = [*self.meter.reports(), *models]
        return Report(self.name, self.clock(), dict(self._requests), list(self._seconds), gpus, measured, known)
