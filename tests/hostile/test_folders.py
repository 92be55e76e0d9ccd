"""Every hostile model folder is refused in time, or loaded with the library's code alone; nothing of it runs, and the
models beside it answer as ever."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hostile.folders import Canary, loaded, refused
from tests.support import PROJECT
from tests.support.tiny_models import save_text_model

pytestmark = pytest.mark.slow

REFUSED_WITHIN_S = 5.0
TIMEOUT_S = 240.0
HONEST = ("a honest neighbour", "z honest neighbour")


@dataclass
class Seen:
    """What became of one model: how long that took, what ran meanwhile, why it was refused or what it answered."""

    name: str
    seconds: float
    events: list[str]
    fault: str | None
    text: str


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canary") / "touched"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, canary: Path) -> dict[str, Seen]:
    """One process scans, validates and loads all of them."""
    place = tmp_path_factory.mktemp("hostile")
    whole, root, trap = save_text_model(place / "whole"), place / "models", Canary(canary)
    for name, change in (refused(trap) | loaded(trap) | {name: lambda folder: None for name in HONEST}).items():
        shutil.copytree(whole, root / name)
        change(root / name)
    command = [sys.executable, "-m", "tests.hostile.folders_worker", str(root), str(place / "cache")]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert run.returncode == 0, run.stderr
    return {line["name"]: Seen(**line) for line in map(json.loads, run.stdout.splitlines())}


def test_there_are_more_than_forty() -> None:
    trap = Canary(Path("canary"))
    assert len(refused(trap)) > 40


@pytest.mark.parametrize("name", refused(Canary(Path())))
def test_a_hostile_folder_is_refused_in_time_with_one_line(seen: dict[str, Seen], name: str) -> None:
    model = seen[name]
    assert model.fault
    assert "\n" not in model.fault
    assert "/tmp" not in model.fault
    assert model.seconds < REFUSED_WITHIN_S


@pytest.mark.parametrize("name", loaded(Canary(Path())))
def test_what_is_loaded_is_loaded_with_the_librarys_code(seen: dict[str, Seen], name: str) -> None:
    assert seen[name].fault is None
    assert seen[name].text


def test_nothing_of_any_folder_runs(seen: dict[str, Seen], canary: Path) -> None:
    assert {name: model.events for name, model in seen.items() if model.events} == {}
    assert not canary.exists()


def test_the_scan_of_all_of_them_takes_no_longer_than_one_may(seen: dict[str, Seen]) -> None:
    assert seen[""].seconds < REFUSED_WITHIN_S


def test_the_models_beside_them_answer_as_ever(seen: dict[str, Seen]) -> None:
    first, last = (seen[name] for name in HONEST)
    assert first.fault is last.fault is None
    assert first.text == last.text != ""


def test_the_canary_sings_where_a_folder_is_loaded_carelessly(tmp_path: Path) -> None:
    """Else a silent canary would prove nothing."""
    folder, touched = tmp_path / "m", tmp_path / "touched"
    folder.mkdir()
    refused(Canary(touched))["a pickle named safetensors"](folder)
    careless = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    subprocess.run([sys.executable, "-c", careless, str(folder / "model.safetensors")], check=True)
    assert touched.exists()
