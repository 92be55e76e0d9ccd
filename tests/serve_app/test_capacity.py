"""Too few CPUs are one line before anything starts: what is asked, what is there, what to set."""

import pytest

from deployments.families.table import FAMILIES
from serve_app import capacity
from serve_app.capacity import refuse_shortage, shortage
from serve_app.config.config import RuntimeConfig

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
