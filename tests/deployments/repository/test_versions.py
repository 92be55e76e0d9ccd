"""A version serves when it has been tried; what fails its trial never does; what cannot be read again is kept."""

from pathlib import Path

import pytest

from deployments.contract.errors import ModelLoadFailed, Overloaded
from deployments.repository.manifest import Manifest
from deployments.repository.model import Model
from deployments.repository.versions import FIRST_BACK_OFF_S, ModelRegistry
from tests.support.clock import Clock


def model(name: str, digest: str = "a", **fields: object) -> Model:
    model_id, _, version = name.partition("@")
    return Model(model_id, int(version) if version else None, Path(name), digest, "text_generation", **fields)  # type: ignore[arg-type]


def names(models: list[Model]) -> list[str]:
    return [f"{one.name}#{one.digest}" for one in models]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(clock: Clock) -> ModelRegistry:
    return ModelRegistry(clock=clock)


def see(board: ModelRegistry, *found: Model) -> None:
    """Two scans: the files have settled."""
    board.observe(found)
    board.observe(found)


def serves(board: ModelRegistry, model_id: str = "m") -> str:
    serving = board.table().models[model_id]
    return f"{serving.name}#{serving.digest}"


def test_a_model_alone_serves_at_once_and_is_not_tried(board: ModelRegistry) -> None:
    see(board, model("m"), model("n@1"))
    assert board.table().models.keys() == {"m", "n", "n@1"}
    assert board.to_try() == []


def test_a_model_to_be_warm_is_tried_once_when_its_files_have_settled(board: ModelRegistry) -> None:
    warm = model("m", manifest=Manifest(warm_up=True))
    board.observe([warm])
    assert board.to_try() == []
    board.observe([warm])
    assert names(board.to_try()) == ["m#a"]
    board.tried(warm, None)
    assert board.to_try() == []


def test_a_new_version_serves_after_its_trial(board: ModelRegistry) -> None:
    see(board, model("m@1"))
    see(board, model("m@1"), model("m@2"))
    assert serves(board) == "m@1#a"
    assert names(board.to_try()) == ["m@2#a"]
    board.tried(model("m@2"), None)
    assert serves(board) == "m@2#a"
    assert board.table().models["m@1"].problem is None
    assert board.retired() == []


def test_a_version_that_fails_never_serves_and_says_why(board: ModelRegistry) -> None:
    see(board, model("m@1"))
    see(board, model("m@1"), model("m@2"))
    board.tried(model("m@2"), ModelLoadFailed("m@2: broken"))
    assert serves(board) == "m@1#a"
    assert "m@2#a" not in names(board.to_try())
    table = board.table()
    assert table.reasons == {"m@2": "broken"}
    assert table.models["m@2"].problem == "broken"


def test_a_folder_that_was_only_half_there_is_tried_again_when_it_changes(board: ModelRegistry) -> None:
    see(board, model("m@1"), model("m@2", "half"))
    board.tried(model("m@1"), None)
    board.tried(model("m@2", "half"), ModelLoadFailed("m@2: truncated"))
    board.observe([model("m@1"), model("m@2", "more")])
    assert board.to_try() == []
    board.observe([model("m@1"), model("m@2", "whole")])
    assert board.to_try() == []
    board.observe([model("m@1"), model("m@2", "whole")])
    assert names(board.to_try()) == ["m@2#whole"]
    board.tried(model("m@2", "whole"), None)
    assert serves(board) == "m@2#whole"


def test_of_several_versions_found_at_the_start_the_highest_good_one_serves(board: ModelRegistry) -> None:
    see(board, model("m@1"), model("m@2"), model("m@3", problem="no weights"))
    assert serves(board) == "m@2#a"
    board.tried(model("m@2"), ModelLoadFailed("broken"))
    assert serves(board) == "m@1#a"
    assert board.table().reasons == {"m@2": "broken", "m@3": "no weights"}


def test_changed_files_are_tried_before_they_take_the_place_of_what_is_in_memory(board: ModelRegistry) -> None:
    see(board, model("m", "old"))
    see(board, model("m", "new"))
    assert serves(board) == "m#old"
    board.tried(model("m", "new"), None)
    assert serves(board) == "m#new"
    assert names(board.retired()) == ["m#old"]
    assert board.retired() == []


def test_files_changed_for_the_worse_leave_what_is_in_memory(board: ModelRegistry) -> None:
    see(board, model("m", "old"))
    see(board, model("m", "new"))
    board.tried(model("m", "new"), ModelLoadFailed("broken"))
    assert serves(board) == "m#old"
    assert board.table().reasons == {"m": "broken"}
    see(board, model("m", "newer", problem="config.json is not JSON"))
    assert serves(board) == "m#old"
    assert board.table().reasons == {"m": "config.json is not JSON"}


def test_a_removed_version_hands_over_and_a_removed_model_is_gone(board: ModelRegistry) -> None:
    see(board, model("m@1"), model("m@2"), model("n"))
    see(board, model("m@1"))
    assert serves(board) == "m@1#a"
    assert "n" not in board.table().models
    assert sorted(names(board.retired())) == ["m@2#a", "n#a"]


def test_a_folder_that_is_missing_for_one_scan_still_serves(board: ModelRegistry) -> None:
    see(board, model("m", "old"))
    board.observe([])
    assert serves(board) == "m#old"
    board.observe([model("m", "new")])
    assert serves(board) == "m#old"


def test_a_trial_that_found_no_room_is_put_off_and_not_held_against_the_model(
    board: ModelRegistry, clock: Clock
) -> None:
    see(board, model("m@1"))
    see(board, model("m@1"), model("m@2"))
    board.tried(model("m@2"), Overloaded("models in use hold the memory"))
    assert board.to_try() == []
    assert board.table().reasons == {"m@2": "not tried yet: models in use hold the memory"}
    clock.now += FIRST_BACK_OFF_S
    assert names(board.to_try()) == ["m@2#a"]
    board.tried(model("m@2"), None)
    assert board.table().reasons == {}


def test_a_lower_version_that_appears_changes_nothing(board: ModelRegistry) -> None:
    see(board, model("m@2"))
    see(board, model("m@2"), model("m@1"))
    board.tried(model("m@2"), None)
    assert serves(board) == "m@2#a"
    assert board.to_try() == []


def test_what_failed_is_tried_again_when_asked(board: ModelRegistry) -> None:
    see(board, model("m@1"), model("m@2"))
    board.tried(model("m@2"), ModelLoadFailed("broken"))
    board.forgive("m@2")
    assert names(board.to_try()) == ["m@2#a"]


def test_pins_overrule_the_manifest(board: ModelRegistry) -> None:
    see(board, model("m", manifest=Manifest(pinned=True)), model("n@1"))
    assert board.table().models["m"].pinned
    board.pin("m", False)
    board.pin("n", True)
    assert not board.table().models["m"].pinned
    assert board.table().models["n@1"].pinned


def test_the_next_board_knows_what_no_scan_can_tell(board: ModelRegistry) -> None:
    see(board, model("m@1"))
    see(board, model("m@1"), model("m@2"), model("m@3"))
    board.tried(model("m@3"), ModelLoadFailed("broken"))
    board.pin("m", True)
    heir = ModelRegistry(ModelRegistry(board.kept()).kept())
    see(heir, model("m@1"), model("m@2"), model("m@3"))
    assert serves(heir) == "m@1#a"
    assert heir.table().models["m"].pinned
    assert heir.table().reasons == {"m@3": "broken"}
    assert names(heir.to_try()) == ["m@2#a"]
