"""Statuses of models, built from a table and the statuses of replicas."""

from pathlib import Path

from deployments.contract.status import ProcessStatus, ReplicaStatus, ResidentStatus, Unload
from deployments.repository.model import Model
from deployments.repository.versions import Table
from serve_app.registry.status import model_status, model_statuses, preload_warnings


def model(version: int | None, digest: str = "a", **fields: object) -> Model:
    return Model("org/m", version, Path("m"), digest, "text_generation", weight_bytes=2**20, **fields)  # type: ignore[arg-type]


def replica(name: str, *models: ResidentStatus) -> ReplicaStatus:
    process = ProcessStatus(
        budget_bytes=64 * 2**20,
        accounted_bytes=5 * 2**20,
        resting_bytes=400 * 2**20,
        process_bytes=410 * 2**20,
        overhead_bytes=5 * 2**20,
        leaked_bytes=0,
    )
    return ReplicaStatus(name, process, models)


TABLE = Table(
    {"org/m": model(2, pinned=True), "org/m@1": model(1), "org/m@2": model(2), "org/m@3": model(3, problem="broken")},
    {"org/m@3": "broken"},
)
REPLICAS = [
    replica("x", ResidentStatus("org/m@2", "a", "ready", 3 * 2**20, loads=2, evictions=1, last_use=5.0, notes=("n",))),
    replica(
        "y",
        ResidentStatus("org/m@1", "a", "unloading", 2**20, loads=1),
        ResidentStatus(
            *("org/m@2", "a", "available"),
            loads=4,
            evictions=4,
            last_use=9.0,
            notes=("n",),
            last_unload=Unload(3 * 2**20, 412 * 2**20, 409 * 2**20, 9.5),
        ),
        ResidentStatus("other", "a", "ready", 2**20, loads=7),
    ),
]


def test_a_failed_model_says_whether_trying_again_may_help() -> None:
    def retryable(problem: str | None, **fields: object) -> bool | None:
        table = Table({"org/m": model(None, problem=problem)})
        resident = ResidentStatus("org/m", "a", **fields)  # type: ignore[arg-type]
        return model_status("org/m", table, [replica("x", resident)]).retryable

    assert retryable("a Git LFS pointer", state="available") is False
    assert retryable(None, state="failed", reason="no memory", retryable=True) is True
    assert retryable(None, state="failed", reason="2 labels", retryable=False) is False
    assert retryable(None, state="ready") is None


def test_the_status_of_a_model_adds_up_the_version_that_serves_over_the_replicas() -> None:
    (row,) = model_statuses(TABLE, REPLICAS)
    assert (row.model_id, row.version, row.versions, row.state, row.pinned) == ("org/m", 2, [1, 2, 3], "ready", True)
    assert (row.declared_bytes, row.resident_bytes) == (2**20, [3 * 2**20])
    assert (row.loads, row.evictions, row.last_use, row.notes) == (6, 5, 9.0, ["n"])
    assert (row.reason, row.refused) == ("org/m@3: broken", {"org/m@3": "broken"})
    assert [(r.replica, r.version, r.state) for r in row.replicas] == [
        ("x", 2, "ready"),
        ("y", 1, "unloading"),
        ("y", 2, "available"),
    ]


def test_a_version_has_its_own_status() -> None:
    assert model_status("org/m@1", TABLE, REPLICAS).state == "unloading"
    refused = model_status("org/m@3", TABLE, REPLICAS)
    assert (refused.state, refused.reason, refused.replicas) == ("failed", "broken", [])


def test_the_state_is_that_of_the_most_advanced_replica() -> None:
    for states, expected in [
        ([], "available"),
        (["available"], "available"),
        (["reserved"], "loading"),
        (["failed", "loading"], "loading"),
        (["failed"], "failed"),
        (["unloading"], "unloading"),
        (["failed", "ready"], "ready"),
    ]:
        replicas = [replica(str(n), ResidentStatus("org/m@2", "a", s, reason="why")) for n, s in enumerate(states)]
        row = model_status("org/m@2", Table({"org/m@2": model(2)}), replicas)
        assert row.state == expected
        assert row.reason == ("why" if expected == "failed" else None)


def test_each_model_that_cannot_be_preloaded_is_a_line_that_says_why() -> None:
    failing = [replica("x", ResidentStatus("org/m@2", "a", "failed", reason="out of memory"))]
    preload = {"text_generation": ["org/m", "org/m@1", "org/m@3", "m"], "image_classification": ["org/m@1"], "none": []}
    assert preload_warnings(preload, TABLE, model_statuses(TABLE, REPLICAS)) == [
        "families.text_generation.preload: org/m@3: broken",
        "families.text_generation.preload: no model 'm'",
        "families.image_classification.preload: org/m@1 serves text_generation, not image_classification",
    ]
    assert preload_warnings({"text_generation": ["org/m"]}, TABLE, model_statuses(TABLE, failing)) == [
        "families.text_generation.preload: org/m@2: out of memory"
    ]
