"""Metrics by their labels, added up over replicas, ingresses and reloads of a model. Knows no Ray."""

import time
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import accumulate, groupby

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from deployments.metrics.samples import ModelMetric, ModelReport

GAUGE_TTL_S = 10.0
"""A gauge counts as 0 when its source has reported nothing for so long. Sources report every second."""

SOURCE_TTL_S = 600.0
"""A source that has reported nothing for so long is forgotten: it does not come back."""


Labels = tuple[tuple[str, str], ...]
Grown = Callable[[ModelMetric, Labels, float], None]
"""Called with a counter, its labels and its increase; with a gauge and its value."""


class ModelTotals:
    """The sums by metric and labels. Counters never fall; gauges are those of sources that still report."""

    def __init__(self, clock: Callable[[], float] = time.time, grown: Grown = lambda *given: None) -> None:
        self.clock = clock
        self.grown = grown
        self._latest: dict[str, tuple[float, ModelReport]] = {}  # by source, with its time
        self._sums: dict[tuple[str, Labels], ModelMetric] = {}

    def add(self, reports: Iterable[ModelReport]) -> None:
        now = self.clock()
        if any(at < now - SOURCE_TTL_S for at, _ in self._latest.values()):
            self._latest = {source: last for source, last in self._latest.items() if last[0] >= now - SOURCE_TTL_S}
        for report in reports:
            _, before = self._latest.get(report.source, (0.0, None))
            known = {metric.name: metric.values for metric in before.metrics} if before else {}
            counted = [metric for metric in report.metrics if metric.kind != "gauge"]
            if any(metric.values < known.get(metric.name, ()) for metric in counted if metric.kind == "counter"):
                continue  # An older report of this source, which came late by another ingress.
            for metric in counted:
                self._grow(report.labels, metric, known.get(metric.name))
            self._latest[report.source] = (now, report)

    def forget_all_but(self, models: Container[str]) -> None:
        """Drops the series of models that are gone."""
        self._sums = {key: metric for key, metric in self._sums.items() if _model(key[1]) in models}
        self._latest = {source: last for source, last in self._latest.items() if last[1].model in models}

    def _grow(self, labels: Labels, metric: ModelMetric, before: tuple[float, ...] | None) -> None:
        nothing = (0.0,) * len(metric.values)
        total = self._sums.get((metric.name, labels))
        values = zip(total.values if total else nothing, metric.values, before or nothing, strict=True)
        grown = tuple(so_far + now - then for so_far, now, then in values)
        self._sums[metric.name, labels] = ModelMetric(metric.name, metric.kind, metric.help, grown, metric.bounds)
        if metric.kind == "counter":
            self.grown(metric, labels, grown[0] - (total.values[0] if total else 0.0))

    def collect(self) -> Iterator[Metric]:
        """For prometheus_client: the metrics by name, each with a series for every set of labels."""
        shown = sorted({**self._sums, **self._gauges()}.items())
        for _, series in groupby(shown, key=lambda entry: entry[0][0]):
            yield _family([(labels, metric) for (_, labels), metric in series])

    def show_gauges(self) -> None:
        """Calls `grown` with each gauge."""
        for (_, labels), metric in self._gauges().items():
            self.grown(metric, labels, metric.values[0])

    def _gauges(self) -> dict[tuple[str, Labels], ModelMetric]:
        gauges: dict[tuple[str, Labels], ModelMetric] = {}
        for at, report in self._latest.values():
            live = at >= self.clock() - GAUGE_TTL_S
            if not live and not report.model:
                continue  # Of a replica that is gone.
            for metric in report.metrics:
                if metric.kind == "gauge":
                    other = gauges.get((metric.name, report.labels))
                    value = (metric.values[0] if live else 0.0) + (other.values[0] if other else 0.0)
                    gauges[metric.name, report.labels] = ModelMetric(metric.name, "gauge", metric.help, (value,))
        return gauges


def _model(labels: Labels) -> str:
    return next((value for name, value in labels if name == "model"), "")


def _family(series: list[tuple[Labels, ModelMetric]]) -> Metric:
    """One metric of Prometheus. The series differ in the values of their labels only."""
    labels, first = series[0]
    names = [name for name, _ in labels]
    if first.kind == "histogram":
        histogram = HistogramMetricFamily(first.name, first.help, labels=names)
        for labels, metric in series:
            histogram.add_metric([value for _, value in labels], _buckets(metric), sum_value=metric.values[-1])
        return histogram
    kind = CounterMetricFamily if first.kind == "counter" else GaugeMetricFamily
    family = kind(first.name, first.help, labels=names)
    for labels, metric in series:
        family.add_metric([value for _, value in labels], metric.values[0])
    return family


def _buckets(metric: ModelMetric) -> list[tuple[str, float]]:
    """Each bucket's upper bound and the count up to it."""
    bounds = [*(f"{bound:g}" for bound in metric.bounds), "+Inf"]
    return list(zip(bounds, accumulate(metric.values[:-1]), strict=True))
