"""What one replica's models and process are measured by, as reports for the aggregator. Knows no Ray."""

from collections.abc import Iterator, Mapping

from deployments.contract.status import ReplicaStatus
from deployments.metrics.meter import BUDGET, EVICTIONS, LOADS, PROCESS, RESIDENT, USED, report_of
from deployments.metrics.samples import ModelMetric, ModelReport


def reports_of(status: ReplicaStatus, family: str, cpu: Mapping[str, float]) -> Iterator[ModelReport]:
    """`cpu`: CPU seconds by model."""
    replica, process = status.replica, status.process
    for name, seconds in cpu.items():
        yield ModelReport(f"{replica}/cpu/{name}", name, (_cpu_seconds(seconds),))
    for model in status.models:
        resident = model.bytes if model.state == "ready" else 0
        for one, value in ((LOADS, model.loads), (EVICTIONS, model.evictions), (RESIDENT, resident)):
            yield report_of(replica, one, (model.name, family), (float(value),))
    memory = ((BUDGET, process.budget_bytes), (USED, process.accounted_bytes), (PROCESS, process.process_bytes))
    for one, value in memory:
        yield report_of(replica, one, (family, replica), (float(value),))


def _cpu_seconds(seconds: float) -> ModelMetric:
    return ModelMetric("model_cpu_seconds_total", "counter", "CPU seconds that a model's requests used.", (seconds,))
