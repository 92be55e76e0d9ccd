"""A status says what serves, what does not and why, and where it is in memory."""

from pathlib import Path

from deployments.contract.status import Plan, ProcessStatus, ReplicaStatus, ResidentStatus, Unload
from deployments.repository.model import Model
from deployments.repository.versions import Table
from serve_app.cli.models import _plan, _row, _shown, table
from serve_app.registry.status import model_status, model_statuses


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
SEEN = [
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


def test_a_row_sums_up_the_version_that_serves_over_the_replicas() -> None:
    (row,) = model_statuses(TABLE, SEEN)
    assert (row.model_id, row.version, row.versions, row.state, row.pinned) == ("org/m", 2, [1, 2, 3], "ready", True)
    assert (row.declared_bytes, row.resident_bytes) == (2**20, [3 * 2**20])
    assert (row.loads, row.evictions, row.last_use, row.notes) == (6, 5, 9.0, ["n"])
    assert (row.reason, row.refused) == ("org/m@3: broken", {"org/m@3": "broken"})
    assert [(r.replica, r.version, r.state) for r in row.replicas] == [
        ("x", 2, "ready"),
        ("y", 1, "unloading"),
        ("y", 2, "available"),
    ]


def test_a_version_has_a_row_of_its_own() -> None:
    assert model_status("org/m@1", TABLE, SEEN).state == "unloading"
    refused = model_status("org/m@3", TABLE, SEEN)
    assert (refused.state, refused.reason, refused.replicas) == ("failed", "broken", [])


def test_the_states_of_a_model_in_memory() -> None:
    for states, expected in [
        ([], "available"),
        (["available"], "available"),
        (["reserved"], "loading"),
        (["failed", "loading"], "loading"),
        (["failed"], "failed"),
        (["unloading"], "unloading"),
        (["failed", "ready"], "ready"),
    ]:
        seen = [replica(str(n), ResidentStatus("org/m@2", "a", s, reason="why")) for n, s in enumerate(states)]
        row = model_status("org/m@2", Table({"org/m@2": model(2)}), seen)
        assert row.state == expected
        assert row.reason == ("why" if expected == "failed" else None)


def test_people_see_a_table() -> None:
    (row,) = model_statuses(TABLE, SEEN)
    assert table([_row(row)]) == "org/m  2 of 1,2,3  text_generation  ready  3.0 MiB  pinned, org/m@3: broken"
    shown = _shown(row)
    assert "refused org/m@3  broken" in shown
    assert "x: version 2, ready, 3.0 MiB, 2 loads" in shown
    assert "all its models 5.0 MiB of 64.0 MiB, its process 410.0 MiB, 400.0 MiB at rest, 0.0 MiB leaked" in shown
    assert "its last unload, of 3.0 MiB, took the process from 412.0 MiB to 409.0 MiB" in shown
    plan = Plan("x", "m", False, True, 2**20, True, 5 * 2**20, evicts=("other",), seconds=0.25)
    assert _plan(plan) == [
        "x",
        "fits",
        "needs 1.0 MiB (measured)",
        "5.0 MiB free",
        "in about 0.25 s, other would go",
    ]
