"""The values of `/metrics` and `/models` at one moment, and what happened between two moments. Knows no terminal."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from deployments.contract.status import ModelStatus

REQUESTS = "inference_requests_total"
DURATIONS = "inference_request_duration_seconds_bucket"
TOKENS = "text_generated_tokens_total"
RUNNING, WAITING = "text_requests_running", "text_requests_waiting"
USED, BUDGET = "replica_memory_used_bytes", "replica_memory_budget_bytes"
GPU = "gpu_utilization_percent"

Labels = Mapping[str, str]
Series = Mapping[frozenset[tuple[str, str]], float]


@dataclass(frozen=True, slots=True)
class Sample:
    """`at`: seconds, of any clock. `series`: by name, the value by labels."""

    at: float
    series: Mapping[str, Series]
    models: Sequence[ModelStatus]

    def sum(self, name: str, **labels: str) -> float:
        """Of all series of that name with these labels. A model's version counts as the model."""
        return sum(value for found, value in self.series.get(name, {}).items() if _has(dict(found), labels))

    def count(self, name: str, **labels: str) -> int:
        return sum(_has(dict(found), labels) for found in self.series.get(name, {}))


def _has(found: Labels, wanted: Labels) -> bool:
    return all(
        found.get(name, "") == value or (name == "model" and found.get(name, "").partition("@")[0] == value)
        for name, value in wanted.items()
    )


def read(at: float, metrics: str, models: Sequence[ModelStatus]) -> Sample:
    """`metrics`: Prometheus' text."""
    series: defaultdict[str, dict[frozenset[tuple[str, str]], float]] = defaultdict(dict)
    for family in text_string_to_metric_families(metrics):
        for one in family.samples:
            series[one.name][frozenset(one.labels.items())] = one.value
    return Sample(at, dict(series), models)


@dataclass(frozen=True, slots=True)
class Period:
    """Between two samples. Where a counter is lower than it was, its process is another one: it began at 0."""

    before: Sample
    now: Sample

    @property
    def seconds(self) -> float:
        return max(self.now.at - self.before.at, 1e-9)

    def rise(self, name: str, **labels: str) -> float:
        return max(0.0, self._rise(self.now.sum(name, **labels), self.before.sum(name, **labels)))

    def rate(self, name: str, **labels: str) -> float:
        return self.rise(name, **labels) / self.seconds

    @staticmethod
    def _rise(now: float, before: float) -> float:
        return now if now < before else now - before

    def quantile(self, q: float, **labels: str) -> float | None:
        """Seconds of requests that ended in the period, within the buckets by a straight line; None without any."""
        bounds: defaultdict[float, float] = defaultdict(float)
        for found, value in self.now.series.get(DURATIONS, {}).items():
            given = dict(found)
            if _has(given, labels):
                before = self.before.series.get(DURATIONS, {}).get(found, 0.0)
                bounds[float(given["le"])] += self._rise(value, before)
        return quantile_of(sorted(bounds.items()), q)

    def failures(self) -> list["Failure"]:
        """What was answered with an error in the period."""
        found = []
        for labels, value in self.now.series.get(REQUESTS, {}).items():
            given = dict(labels)
            count = self._rise(value, self.before.series.get(REQUESTS, {}).get(labels, 0.0))
            if given.get("outcome") != "ok" and count > 0:
                found.append(Failure(self.now.at, given.get("model", ""), given.get("outcome", ""), round(count)))
        return sorted(found, key=lambda one: (one.model, one.code))


@dataclass(frozen=True, slots=True)
class Failure:
    """So many requests for a model that were answered with an error of this code."""

    at: float
    model: str
    code: str
    count: int


def quantile_of(buckets: Sequence[tuple[float, float]], q: float) -> float | None:
    """`buckets`: upper bounds with how many lie below, as Prometheus has them."""
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    low, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= q * total and count > below:
            return low if math.isinf(bound) else low + (bound - low) * (q * total - below) / (count - below)
        low, below = bound, count
    return low


@dataclass
class History:
    """The samples that are needed for what is shown, and the last failures."""

    kept: int = 8
    sample: Sample | None = None
    period: Period | None = None
    failures: list[Failure] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        if self.sample is not None:
            self.period = Period(self.sample, sample)
            self.failures = (self.failures + self.period.failures())[-self.kept :]
        self.sample = sample


def families_of(models: Iterable[ModelStatus]) -> list[str]:
    return sorted({model.family for model in models if model.family})
