"""Folders of a Hugging Face Hub cache are recognised by what its tools write."""

from pathlib import Path

from deployments.repository.hub_cache import hub_repository


def snapshots(folder: Path, *commits: str) -> Path:
    for commit in commits:
        (folder / "snapshots" / commit).mkdir(parents=True)
    return folder


def test_the_name_is_the_repositorys_and_the_files_those_of_main(tmp_path: Path) -> None:
    folder = snapshots(tmp_path / "models--org--m", "a1", "b2")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a1\n")
    assert hub_repository(folder) == ("org/m", folder / "snapshots" / "a1")


def test_a_reference_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    folder = snapshots(tmp_path / "models--org--m", "a1")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("../../../etc")
    assert hub_repository(folder) == ("org/m", folder / "snapshots" / "a1")


def test_data_sets_are_no_models_and_other_folders_no_cache(tmp_path: Path) -> None:
    data = snapshots(tmp_path / "datasets--org--d", "a1")
    assert hub_repository(data) == ("", data / "snapshots" / "a1")
    assert hub_repository(snapshots(tmp_path / "m", "a1")) is None
    (tmp_path / "models--org--m").mkdir()
    assert hub_repository(tmp_path / "models--org--m") is None
