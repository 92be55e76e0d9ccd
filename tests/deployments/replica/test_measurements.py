"""A replica's models and memory as metrics."""

from deployments.contract.status import ProcessStatus, ReplicaStatus, ResidentStatus
from deployments.replica.measurements import reports_of

PROCESS = ProcessStatus(100, 60, 10, 90, 20, 0)


def test_loads_evictions_and_memory_are_reported_by_model_and_replica() -> None:
    models = (
        ResidentStatus("m", "d", "ready", bytes=60, loads=3, evictions=2),
        ResidentStatus("gone", "d", "available", bytes=40, loads=1, evictions=1),
    )
    reports = reports_of(ReplicaStatus("r", PROCESS, models), "images", {"m": 1.5})
    values = {(one.metrics[0].name, *dict(one.labels).values()): one.metrics[0].values for one in reports}
    assert values == {
        ("model_cpu_seconds_total", "m"): (1.5,),
        ("model_loads_total", "m", "images"): (3,),
        ("model_evictions_total", "m", "images"): (2,),
        ("model_resident_bytes", "m", "images"): (60,),
        ("model_loads_total", "gone", "images"): (1,),
        ("model_evictions_total", "gone", "images"): (1,),
        ("model_resident_bytes", "gone", "images"): (0,),
        ("replica_memory_budget_bytes", "images", "r"): (100,),
        ("replica_memory_used_bytes", "images", "r"): (60,),
        ("replica_process_bytes", "images", "r"): (90,),
    }
