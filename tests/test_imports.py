"""Our packages in a folder that has packages of the same names."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import PROJECT, sweep

ENTRY = "import sys; from serve_app.cli.main import main; sys.exit(main(['config']))"


WITHOUT = "import sys; sys.meta_path = [one for one in sys.meta_path if {!r} not in repr(one)]\n"


def ran(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Python in `folder`, which comes first on its path; our packages are in an environment's site-packages."""
    site = folder.parent / "site-packages"
    if not site.exists():
        site.mkdir()
        for name in ("serve_app", "deployments", "model_runtime_imports.py"):
            (site / name).symlink_to(PROJECT / name)
        shutil.copy(PROJECT / "model_runtime.pth", site)
    begin = WITHOUT.format("_EditableFinder") + f"import site; site.addsitedir({str(site)!r})\n"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", begin + program]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job's folder with packages of its own that have our names."""
    for name in ("deployments", "serve_app"):
        (tmp_path / "job" / name).mkdir(parents=True)
        (tmp_path / "job" / name / "__init__.py").write_text(f"mine = '{name}'\n")
        (tmp_path / "job" / name / "training.py").write_text("steps = 3\n")
    return tmp_path / "job"


def test_our_entry_runs_from_a_folder_that_has_packages_of_our_names(job: Path) -> None:
    assert "text_generation" in ran(job, ENTRY).stdout
    hidden = ran(job, WITHOUT.format("BesideOthers") + ENTRY)
    assert "No module named 'serve_app.cli'" in hidden.stderr


@pytest.mark.parametrize(
    "begins", sweep(["deployments.training", "serve_app.cli.main", "deployments.contract.wire"], "serve_app.cli.main")
)
def test_theirs_and_ours_are_imported_beside_each_other(job: Path, begins: str) -> None:
    program = f"""
import {begins}, deployments.training, serve_app.training, serve_app.cli.main, deployments.contract.wire
print(deployments.mine, serve_app.mine, deployments.training.steps)
"""
    shown = ran(job, program)
    assert (shown.stdout, shown.stderr) == ("deployments serve_app 3\n", "")


def test_a_folder_without_an_init_is_found_as_well(job: Path) -> None:
    (job / "deployments" / "__init__.py").unlink()
    shown = ran(job, "import deployments.contract.wire, deployments.training as mine; print(mine.steps)")
    assert (shown.stdout, shown.stderr) == ("3\n", "")


def test_where_there_is_no_other_the_packages_are_ours_alone(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    shown = ran(tmp_path / "empty", "import deployments, serve_app; print(*deployments.__path__, *serve_app.__path__)")
    assert shown.stdout.split() == [str(PROJECT / "deployments"), str(PROJECT / "serve_app")]
