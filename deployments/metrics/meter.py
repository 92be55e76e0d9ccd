"""The metrics that processes measure themselves: their table, and one process's values of them, which are Ray's metrics
as well. docs/metrics.md has a row for each; a test compares them."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ray.util.metrics import Histogram

from deployments.metrics.samples import ModelMetric, ModelReport

# Ten bounds: of sixty models each histogram has twelve series a model.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
_LOAD_SECONDS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_BATCHES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
MODEL, KEY, REPLICA = ("model", "family"), ("key",), ("family", "replica")


@dataclass(frozen=True, slots=True, eq=False)
class Instrument:
    """One metric, equal to itself alone: it is looked up with every request. `bounds`: of a histogram's buckets."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = MODEL
    bounds: tuple[float, ...] = ()


def _seconds(name: str, text: str, bounds: tuple[float, ...] = _SECONDS) -> Instrument:
    return Instrument(name, "histogram", text, bounds=bounds)


REQUEST = _seconds("inference_request_duration_seconds", "Time from a request's arrival at an ingress to its answer.")
QUEUE = _seconds("inference_queue_duration_seconds", "Time from its arrival until a request was sent to a replica.")
RETRIES = Instrument("inference_retries_total", "counter", "Requests sent again because their replica was lost.")
QUARANTINED = Instrument(
    "inference_quarantined_total", "counter", "Inputs refused from then on, because replicas ended with them alone."
)
KEY_REQUESTS = Instrument("api_key_requests_total", "counter", "Requests answered for an API key.", KEY)
KEY_TOKENS = Instrument("api_key_tokens_total", "counter", "Tokens read and generated for an API key.", KEY)
PREPROCESS = _seconds("inference_preprocess_duration_seconds", "Time to decode an input, where that is done apart.")
COMPUTE = _seconds("inference_compute_duration_seconds", "Time from having the model in memory to the answer.")
BATCH = Instrument("inference_batch_size", "histogram", "Requests that shared one forward.", bounds=_BATCHES)
LOAD = _seconds("model_load_duration_seconds", "Time to validate a model's folder and build its engine.", _LOAD_SECONDS)
LOADS = Instrument("model_loads_total", "counter", "Times that a model was loaded into a replica.")
EVICTIONS = Instrument("model_evictions_total", "counter", "Times that a model was evicted for another one.")
RESIDENT = Instrument("model_resident_bytes", "gauge", "Memory of a model in all replicas that hold it.")
BUDGET = Instrument("replica_memory_budget_bytes", "gauge", "Memory that a replica has for its models.", REPLICA)
USED = Instrument("replica_memory_used_bytes", "gauge", "Memory of a replica's models, by its own accounting.", REPLICA)
PROCESS = Instrument("replica_process_bytes", "gauge", "Memory of a replica's process.", REPLICA)

INSTRUMENTS = (
    *(REQUEST, QUEUE, RETRIES, QUARANTINED, KEY_REQUESTS, KEY_TOKENS),
    *(PREPROCESS, COMPUTE, BATCH, LOAD, LOADS, EVICTIONS, RESIDENT, BUDGET, USED, PROCESS),
)


class Meter:
    """Counters and histograms of one process, from its start. `source`: its name."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._values: dict[tuple[Instrument, tuple[str, ...]], list[float]] = {}
        histograms = [instrument for instrument in INSTRUMENTS if instrument.kind == "histogram"]
        # Of Ray's metrics; the aggregator has the counters and gauges.
        self._histograms = {
            one: Histogram(one.name, one.help, boundaries=list(one.bounds), tag_keys=one.labels) for one in histograms
        }

    def observe(self, instrument: Instrument, value: float, *labels: str) -> None:
        values = self._values.get((instrument, labels))
        if values is None:
            values = self._values[instrument, labels] = [0.0] * (len(instrument.bounds) + 2)
        values[bisect_left(instrument.bounds, value)] += 1
        values[-1] += value
        self._histograms[instrument].observe(value, dict(zip(instrument.labels, labels, strict=True)))

    def count(self, instrument: Instrument, by: float, *labels: str) -> None:
        values = self._values.setdefault((instrument, labels), [0.0])
        values[0] += by

    def reports(self) -> Iterator[ModelReport]:
        """One for each instrument and its labels."""
        for (instrument, labels), values in list(self._values.items()):
            yield report_of(self.source, instrument, labels, tuple(values))


def report_of(source: str, instrument: Instrument, labels: tuple[str, ...], values: tuple[float, ...]) -> ModelReport:
    """What a source has of one instrument. The label `model` is the report's own."""
    named: Mapping[str, str] = dict(zip(instrument.labels, labels, strict=True))
    metric = ModelMetric(instrument.name, instrument.kind, instrument.help, values, instrument.bounds)
    more = tuple((name, value) for name, value in named.items() if name != "model")
    return ModelReport(f"{source}/{instrument.name}/{'/'.join(labels)}", named.get("model", ""), (metric,), more)
