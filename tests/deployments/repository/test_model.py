"""A model is found by its id or by the name of a version; of several versions the highest serves."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.contract.errors import ModelLoadFailed, ModelNotFound, WrongFamily
from deployments.repository.manifest import Manifest
from deployments.repository.model import Model, by_name, find, id_and_version, may_name_a_model


def model(model_id: str, version: int | None = None, problem: str | None = None) -> Model:
    return Model(model_id, version, Path(model_id), "digest", "text_generation", problem=problem)


def test_the_name_holds_the_version_and_the_key_the_content_too() -> None:
    assert (model("org/m").name, model("org/m").key) == ("org/m", "org/m#digest")
    assert (model("m", 2).name, model("m", 2).key) == ("m@2", "m@2#digest")


def test_the_manifest_declares_the_size_else_the_weight_files_do() -> None:
    assert Model("m", None, Path(), "d", weight_bytes=100).declared_bytes == 100
    assert Model("m", None, Path(), "d", manifest=Manifest(memory_mb=2), weight_bytes=100).declared_bytes == 2 * 2**20


def test_a_model_that_travels_is_read_once_and_a_changed_one_anew() -> None:
    sent = model("m", 2)
    first, second = (pickle.loads(pickle.dumps(sent)) for _ in range(2))
    assert first == sent
    assert first is second
    pinned = pickle.loads(pickle.dumps(replace(sent, pinned=True)))
    assert (pinned.pinned, pinned.name) == (True, "m@2")


def test_the_highest_version_without_a_problem_serves_under_the_model_id() -> None:
    versions = [model("m", 2), model("m", 10), model("m", 11, problem="broken")]
    for order in (versions, versions[::-1]):
        table = by_name(order)
        assert table.keys() == {"m", "m@2", "m@10", "m@11"}
        assert table["m"].version == 10


def test_a_model_that_is_not_there_is_not_found_and_the_nearest_name_is_suggested() -> None:
    with pytest.raises(ModelNotFound, match="^no model 'gpt-nanno'; did you mean 'gpt-nano'\\?$"):
        find(by_name([model("gpt-nano")]), "gpt-nanno", "text_generation")


def test_a_model_of_another_family_is_refused() -> None:
    with pytest.raises(WrongFamily, match="^m serves text_generation, not image_classification$"):
        find(by_name([model("m")]), "m", "image_classification")


def test_a_model_with_a_problem_fails_with_the_problem() -> None:
    with pytest.raises(ModelLoadFailed, match="^m@1: broken$"):
        find(by_name([model("m", 1, problem="broken")]), "m", "text_generation")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("m", ("m", None)),
        ("org/m", ("org/m", None)),
        ("m/3", ("m", 3)),
        ("org/m/12", ("org/m", 12)),
        ("3", ("3", None)),
        ("m/1234567890", ("m/1234567890", None)),
        ("m/²", ("m/²", None)),
    ],
)
def test_a_number_below_a_model_is_its_version(path: str, expected: tuple[str, int | None]) -> None:
    assert id_and_version(tuple(path.split("/"))) == expected


def test_hidden_folders_and_names_with_an_at_sign_lead_to_no_model() -> None:
    assert may_name_a_model("gpt-nano")
    assert not any(map(may_name_a_model, (".cache", "m@2")))
