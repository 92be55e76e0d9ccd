"""A version serves after its validation; one that fails never serves; what no scan can tell is saved."""

from pathlib import Path

import pytest

from deployments.contract.errors import ModelLoadFailed, Overloaded
from deployments.repository.manifest import Manifest
from deployments.repository.model import Model
from deployments.repository.versions import MAX_BACK_OFF_S, MIN_BACK_OFF_S, ModelRegistry
from tests.support.clock import Clock


def model(name: str, digest: str = "a", manifest: Manifest | None = None, problem: str | None = None) -> Model:
    model_id, _, version = name.partition("@")
    number = int(version) if version else None
    return Model(model_id, number, Path(name), digest, "text_generation", manifest or Manifest(), problem=problem)


def keys(models: list[Model]) -> list[str]:
    return [one.key for one in models]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(clock: Clock) -> ModelRegistry:
    return ModelRegistry(clock=clock)


def scan_twice(registry: ModelRegistry, *found: Model) -> None:
    """After the second scan the files have settled."""
    registry.observe(found)
    registry.observe(found)


def serving(registry: ModelRegistry, model_id: str = "m") -> str:
    return registry.table().models[model_id].key


def test_the_only_version_serves_at_once_without_a_validation(registry: ModelRegistry) -> None:
    scan_twice(registry, model("m"), model("n@1"))
    assert registry.table().models.keys() == {"m", "n", "n@1"}
    assert registry.due_validations() == []


def test_a_model_to_warm_up_is_validated_once_after_its_files_have_settled(registry: ModelRegistry) -> None:
    warm = model("m", manifest=Manifest(warm_up=True))
    registry.observe([warm])
    assert registry.due_validations() == []
    registry.observe([warm])
    assert keys(registry.due_validations()) == ["m#a"]
    registry.record_validation(warm, None)
    assert registry.due_validations() == []


def test_a_new_version_serves_after_its_validation(registry: ModelRegistry) -> None:
    scan_twice(registry, model("m@1"))
    scan_twice(registry, model("m@1"), model("m@2"))
    assert serving(registry) == "m@1#a"
    assert keys(registry.due_validations()) == ["m@2#a"]
    registry.record_validation(model("m@2"), None)
    assert serving(registry) == "m@2#a"
    assert registry.table().models["m@1"].problem is None
    assert registry.take_retired() == []


def test_a_version_that_fails_its_validation_never_serves_and_the_table_has_the_reason(registry: ModelRegistry) -> None:
    scan_twice(registry, model("m@1"))
    scan_twice(registry, model("m@1"), model("m@2"))
    registry.record_validation(model("m@2"), ModelLoadFailed("m@2: broken"))
    assert serving(registry) == "m@1#a"
    assert "m@2#a" not in keys(registry.due_validations())
    table = registry.table()
    assert table.reasons == {"m@2": "broken"}
    assert table.models["m@2"].problem == "broken"


def test_a_folder_that_was_half_copied_is_validated_again_when_it_is_whole(registry: ModelRegistry) -> None:
    scan_twice(registry, model("m@1"), model("m@2", "half"))
    registry.record_validation(model("m@1"), None)
    registry.record_validation(model("m@2", "half"), ModelLoadFailed("m@2: truncated"))
    registry.observe([model("m@1"), model("m@2", "more")])
    assert registry.due_validations() == []
    registry.observe([model("m@1"), model("m@2", "whole")])
    assert registry.due_validations() == []
    registry.observe([model("m@1"), model("m@2", "whole")])
    assert keys(registry.due_validations()) == ["m@2#whole"]
    registry.record_validation(model("m@2", "whole"), None)
    assert serving(registry) == "m@2#whole"


def test_of_the_versions_found_at_the_start_the_highest_without_a_problem_serves(registry: ModelRegistry) -> None:
    scan_twice(registry, model("m@1"), model("m@2"), model("m@3", problem="no weights"))
    assert serving(registry) == "m@2#a"
    registry.record_validation(model("m@2"), ModelLoadFailed("broken"))
    assert serving(registry) == "m@1#a"
    assert registry.table().reasons == {"m@2": "broken", "m@3": "no weights"}


def test_changed_files_are_validated_before_they_replace_the_content_in_memory(registry: ModelRegistry) -> None:
    scan_twice(registry, model("m", "old"))
    scan_twice(registry, model("m", "new"))
    assert serving(registry) == "m#old"
    registry.record_validation(model("m", "new"), None)
    assert serving(registry) == "m#new"
    assert keys(registry.take_retired()) == ["m#old"]
    assert registry.take_retired() == []


def test_files_changed_to_broken_ones_leave_the_content_in_memory_serving(registry: ModelRegistry) -> None:
    scan_twice(registry, model("m", "old"))
    scan_twice(registry, model("m", "new"))
    registry.record_validation(model("m", "new"), ModelLoadFailed("broken"))
    assert serving(registry) == "m#old"
    assert registry.table().reasons == {"m": "broken"}
    scan_twice(registry, model("m", "newer", problem="config.json is not JSON"))
    assert serving(registry) == "m#old"
    assert registry.table().reasons == {"m": "config.json is not JSON"}


def test_a_removed_version_gives_way_to_the_next_one_and_a_removed_model_is_gone(registry: ModelRegistry) -> None:
    scan_twice(registry, model("m@1"), model("m@2"), model("n"))
    scan_twice(registry, model("m@1"))
    assert serving(registry) == "m@1#a"
    assert "n" not in registry.table().models
    assert sorted(keys(registry.take_retired())) == ["m@2#a", "n#a"]


def test_a_folder_that_is_missing_in_one_scan_goes_on_serving(registry: ModelRegistry) -> None:
    scan_twice(registry, model("m", "old"))
    registry.observe([])
    assert serving(registry) == "m#old"
    registry.observe([model("m", "new")])
    assert serving(registry) == "m#old"


def test_a_load_that_failed_for_now_does_not_count_against_the_version(registry: ModelRegistry) -> None:
    scan_twice(registry, model("m@1"))
    scan_twice(registry, model("m@1"), model("m@2"))
    registry.record_validation(model("m@2"), ModelLoadFailed.for_now("m@2: the disk is full"))
    assert registry.table().reasons == {"m@2": "not tried yet: m@2: the disk is full"}
    registry.record_validation(model("m@2"), ModelLoadFailed("m@2: broken"))
    assert registry.table().reasons == {"m@2": "broken"}


def test_a_validation_that_found_no_memory_is_deferred_and_does_not_count_against_the_model(
    registry: ModelRegistry, clock: Clock
) -> None:
    scan_twice(registry, model("m@1"))
    scan_twice(registry, model("m@1"), model("m@2"))
    registry.record_validation(model("m@2"), Overloaded("models in use hold the memory"))
    assert registry.due_validations() == []
    assert registry.table().reasons == {"m@2": "not tried yet: models in use hold the memory"}
    clock.now += MIN_BACK_OFF_S
    assert keys(registry.due_validations()) == ["m@2#a"]
    registry.record_validation(model("m@2"), None)
    assert registry.table().reasons == {}


def test_a_deferred_validation_is_repeated_after_twice_the_time_up_to_a_maximum(
    registry: ModelRegistry, clock: Clock
) -> None:
    scan_twice(registry, model("m@1"), model("m@2"))
    for back_off_s in [*(MIN_BACK_OFF_S * 2**n for n in range(8)), MAX_BACK_OFF_S]:
        registry.record_validation(model("m@2"), Overloaded("no memory"))
        clock.now += back_off_s - 0.5
        assert registry.due_validations() == []
        clock.now += 0.5
        assert keys(registry.due_validations()) == ["m@2#a"]


def test_a_lower_version_that_appears_changes_nothing(registry: ModelRegistry) -> None:
    scan_twice(registry, model("m@2"))
    scan_twice(registry, model("m@2"), model("m@1"))
    registry.record_validation(model("m@2"), None)
    assert serving(registry) == "m@2#a"
    assert registry.due_validations() == []


def test_a_failed_version_is_validated_again_on_request(registry: ModelRegistry) -> None:
    scan_twice(registry, model("m@1"), model("m@2"))
    registry.record_validation(model("m@2"), ModelLoadFailed("broken"))
    registry.retry_failed("m@2")
    assert keys(registry.due_validations()) == ["m@2#a"]


def test_a_pin_overrules_the_manifest_of_every_version(registry: ModelRegistry) -> None:
    scan_twice(registry, model("m", manifest=Manifest(pinned=True)), model("n@1"))
    assert registry.table().models["m"].pinned
    registry.pin("m", False)
    registry.pin("n", True)
    assert not registry.table().models["m"].pinned
    assert registry.table().models["n@1"].pinned


def test_the_next_registry_has_the_state_that_no_scan_can_tell(registry: ModelRegistry) -> None:
    scan_twice(registry, model("m@1"))
    scan_twice(registry, model("m@1"), model("m@2"), model("m@3"))
    registry.record_validation(model("m@3"), ModelLoadFailed("broken"))
    registry.pin("m", True)
    following = ModelRegistry(ModelRegistry(registry.state()).state())
    scan_twice(following, model("m@1"), model("m@2"), model("m@3"))
    assert serving(following) == "m@1#a"
    assert following.table().models["m"].pinned
    assert following.table().reasons == {"m@3": "broken"}
    assert keys(following.due_validations()) == ["m@2#a"]
