"""Too few CPUs are one line before anything starts: what is asked, what is there, what to set."""

import pytest

from deployments.families.table import FAMILIES
from serve_app import capacity
from serve_app.capacity import refuse_shortage, room_wanted, shortage
from serve_app.config.config import RuntimeConfig

UNPLACED = (
    "Deployment 'TextGeneration' in application 'model-runtime' has 1 replicas that have taken more than 5s to be "
    "scheduled. This may be due to waiting for the cluster to auto-scale or for a runtime environment to be installed. "
    "Resources required for each replica: {}, total resources available: {}. Use `ray status` for more details."
)
"""What Serve says, in ray/serve/_private/deployment_state.py."""
FOUR = RuntimeConfig.model_validate({"families": {"text_generation": {"num_cpus": 4}}})


def test_the_defaults_fit_on_two_cpus() -> None:
    assert shortage(RuntimeConfig(), FAMILIES, 2) is None


def test_no_family_is_kept_from_its_first_replica_by_the_others_second_ones() -> None:
    config = RuntimeConfig()
    families = [config.settings(family.name) for family in FAMILIES]
    most = sum(one.autoscaling.max_replicas * one.num_cpus for one in families)
    most += config.ingress.autoscaling.max_replicas * config.ingress.num_cpus
    assert most <= 2


def test_one_line_says_what_is_asked_what_is_there_and_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "machine_cpus", lambda: 2)
    with pytest.raises(ValueError, match=r"need [\d.]+ CPUs and Ray counts 2 here .*text_generation 1 x 4.*num_cpus"):
        refuse_shortage(FOUR, FAMILIES)


def test_a_family_that_may_be_empty_needs_room_for_one_replica() -> None:
    settings = {"num_cpus": 3, "autoscaling": {"min_replicas": 0}}
    empty = RuntimeConfig.model_validate({"families": {"text_generation": settings}})
    assert shortage(empty, FAMILIES, 3) is None
    line = shortage(empty, FAMILIES, 2)
    assert line is not None
    assert "text_generation 0 x 3" in line
    assert "object_detection" not in line, "it has no replica at first, and fits"
    assert "\n" not in line


@pytest.mark.parametrize(
    ("needed", "free", "wanted"),
    [
        ('{"CPU": 12.0}', '{"CPU": 1.25}', "12 CPU on one node; 1.25 CPU are free on all together"),
        (
            '{"CPU": 1.0, "GPU": 0.25}',
            '{"CPU": 3.0}',
            "1 CPU and 0.25 GPU on one node; 3 CPU and 0 GPU are free on all",
        ),
    ],
)
def test_what_a_replica_without_room_waits_for_is_one_line(needed: str, free: str, wanted: str) -> None:
    line = room_wanted(UNPLACED.format(needed, free))
    assert line is not None
    assert line.startswith(f"a replica waits for {wanted}")


@pytest.mark.parametrize("message", ["", "A replica failed to start.", UNPLACED.format("UNKNOWN", "UNKNOWN")])
def test_where_serve_says_something_else_no_replica_waits_for_room(message: str) -> None:
    assert room_wanted(message) is None
