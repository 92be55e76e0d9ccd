"""Settings are strict: an unknown key or an impossible combination is an error that says where."""

import pytest
from pydantic import ValidationError

from deployments.contract.settings import Autoscaling, FamilySettings, is_url, mistakes, nearest


def test_an_unknown_key_names_the_nearest_known_one() -> None:
    with pytest.raises(ValidationError, match="unknown key 'num_cpu'; did you mean 'num_cpus'"):
        FamilySettings.model_validate({"num_cpu": 1})
    assert nearest("zzz", ["num_cpus"]) == ""


def test_each_mistake_is_one_line_with_its_place() -> None:
    with pytest.raises(ValidationError) as invalid:
        FamilySettings.model_validate({"num_cpus": -1, "autoscaling": {"max_replicas": 0}})
    lines = mistakes(invalid.value, "families", "f")
    assert [line.partition(": ")[0] for line in lines] == [
        "families.f.autoscaling.max_replicas",
        "families.f.num_cpus",
    ]


def test_autoscaling_refuses_a_minimum_above_its_maximum() -> None:
    with pytest.raises(ValidationError, match="min_replicas 3 is above max_replicas 2"):
        Autoscaling(min_replicas=3)


def test_the_longest_deadline_is_the_ordinary_one_unless_the_operator_allows_more() -> None:
    assert FamilySettings(deadline_s=5).longest_deadline_s == 5
    assert FamilySettings(deadline_s=5, max_deadline_s=50).longest_deadline_s == 50
    with pytest.raises(ValidationError, match="max_deadline_s 4 is below deadline_s 5"):
        FamilySettings(deadline_s=5, max_deadline_s=4)


@pytest.mark.parametrize(
    ("location", "url"), [("s3://bucket/models", True), ("models", False), ("/a/b", False), ("a:b", False)]
)
def test_a_location_with_a_scheme_is_a_url(location: str, url: bool) -> None:
    assert is_url(location) is url
