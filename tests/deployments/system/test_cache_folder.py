"""Where a node caches, whoever starts it and wherever it may write."""

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from deployments.system.cache_folder import cache_folder, home


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def beside(temporary: Path) -> Path:
    return temporary / f"model-runtime-{os.getuid()}"


@pytest.fixture
def unknown_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """HOME is not set, and the system does not know the user."""

    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_a_user_with_a_home_caches_there(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder(None) == tmp_path / "home" / ".cache" / "model-runtime"
    assert cache_folder(None).stat().st_mode & 0o777 == 0o700
    assert not beside(temporary).exists()


@pytest.mark.usefixtures("unknown_user")
def test_a_user_without_a_home_caches_beside_temporary_files(temporary: Path) -> None:
    assert home() is None
    assert cache_folder(None) == beside(temporary)
    assert beside(temporary).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("named", ["", "/", "~", "here", "/dev/null"])
def test_so_does_one_whose_home_cannot_be_written_to(
    named: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", named)
    assert cache_folder(None) == beside(temporary)


def test_a_configured_folder_is_made_and_no_other_taken_in_its_place(tmp_path: Path, temporary: Path) -> None:
    assert cache_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=rf"cache: user {os.getuid()} cannot write to {tmp_path}/file/b .*; set `cache`"):
        cache_folder(tmp_path / "file" / "b")
    assert not beside(temporary).exists()


def test_a_folder_that_another_user_could_have_made_is_not_taken(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/dev/null")
    beside(temporary).mkdir()
    beside(temporary).chmod(0o777)
    with pytest.raises(OSError, match=r"cannot write to /dev/null/\S+ \(Not a directory\); set `cache`"):
        cache_folder(None)


@pytest.mark.usefixtures("unknown_user")
def test_where_nothing_can_be_written_one_line_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(OSError, match=r"^cache: user \d+ cannot write to any folder; set `cache` to a folder"):
        cache_folder(None)
