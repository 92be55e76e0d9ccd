"""What a killed launcher leaves is cleared by the next start; what lives, or is another's, stays."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from serve_app.supervisor import left
from serve_app.supervisor.left import LOCK, clear_left, private_folder


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(left, "PLACES", ())
    monkeypatch.setattr(left, "SHARED_MEMORY", tmp_path / "shm")
    (tmp_path / "shm").mkdir()


def test_the_folder_of_a_launcher_that_was_killed_is_removed(tmp_path: Path) -> None:
    killed, anothers = tmp_path / "mr-killed", tmp_path / "mr-of-something-else"
    for folder in (killed, anothers):
        folder.mkdir()
    (killed / LOCK).touch()
    with private_folder(tmp_path) as living:
        clear_left()
        assert [folder.exists() for folder in (killed, anothers, living)] == [False, True, True]
    assert not living.exists()


def test_the_folder_of_a_node_is_removed_once_no_process_names_it_in_its_environment_or_its_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(left, "PLACES", (str(tmp_path),))
    gone, used, heads, young = (tmp_path / f"mrn-{name}" for name in ("gone", "used", "heads", "young"))
    for folder in (gone, used, heads, young):
        folder.mkdir()
    for folder in (gone, used, heads):
        os.utime(folder, (0, 0))
    environment = os.environ | {"RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{used}/haproxy.cfg"}
    haproxy = [sys.executable, "-c", "input()", f"{heads}/haproxy.cfg"]
    with subprocess.Popen(haproxy, stdin=subprocess.PIPE, env=environment):
        clear_left()
        assert [folder.exists() for folder in (gone, used, heads, young)] == [False, True, True, True]
    clear_left()
    assert [folder.exists() for folder in (used, heads)] == [False, False]


def test_openmps_files_of_processes_that_are_gone_are_removed(tmp_path: Path) -> None:
    user, gone = os.getuid(), 2**22 + 1  # above the largest id that Linux gives
    names = {f"{gone}_{user}": False, f"{os.getpid()}_{user}": True, f"{gone}_{user + 1}": True, "other": True}
    files = {name: tmp_path / "shm" / f"__KMP_REGISTERED_LIB_{name}" for name in names}
    for file in files.values():
        file.touch()
    clear_left()
    assert {name: file.exists() for name, file in files.items()} == names
