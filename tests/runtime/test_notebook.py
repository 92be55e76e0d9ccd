"""The notebooks run from top to bottom, and what they show is committed with them."""

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support import PROJECT
from tests.support.ports import free_port

PICTURES = {"experiments": 4, "operations": 3, "quickstart": 3}
SHORTER = {"SECONDS = 8010, 3": "SECONDS = 8010, 0.2", "WATCH_S = 40": "WATCH_S = 3"}
"""Of what the notebooks say, and what the test has them do."""


def read_notebook(name: str) -> nbformat.NotebookNode:
    notebook: nbformat.NotebookNode = nbformat.read(PROJECT / "notebooks" / f"{name}.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def shown(cells: list[nbformat.NotebookNode]) -> str:
    """What code cells gave: their texts, and the kinds of their pictures."""
    given = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.get("text", "") + " ".join(output.get("data", {})) for output in given)


@pytest.mark.cluster
def test_the_notebooks_run_on_one_runtime_and_show_what_they_say() -> None:
    """In one process, one after the other: the first starts the runtime, and the others join it."""
    port = free_port()
    together, ends = read_notebook("experiments"), {}
    together.cells = []
    for name in PICTURES:
        cells = read_notebook(name).cells
        for cell in cells:
            for long, short in SHORTER.items():
                cell.source = cell.source.replace(long, short)
            cell.source = cell.source.replace("8010", str(port)).replace("PORT = 8000", f"PORT = {port}")
        together.cells += cells
        ends[name] = len(together.cells)
    NotebookClient(together, timeout=300, resources={"metadata": {"path": str(PROJECT)}}).execute()
    begin = 0
    for name, end in ends.items():
        assert shown(together.cells[begin:end]).count("image/png") == PICTURES[name], name
        begin = end


@pytest.mark.parametrize("name", PICTURES)
def test_the_outputs_are_committed(name: str) -> None:
    cells = read_notebook(name).cells
    assert all(cell.outputs or "import" in cell.source for cell in cells if cell.cell_type == "code")
    assert shown(cells).count("image/png") == PICTURES[name]


def test_the_quickstart_plays_a_digit_and_shows_an_error_with_its_code() -> None:
    cells = read_notebook("quickstart").cells
    assert "text/html" in shown(cells)  # the player
    assert "seven" in shown(cells)
    assert "model_not_found – no model 'gpt-nanno'; did you mean 'gpt-nano'?" in shown(cells)


def test_every_notebook_is_run() -> None:
    assert {file.stem for file in (PROJECT / "notebooks").glob("*.ipynb")} == PICTURES.keys()
