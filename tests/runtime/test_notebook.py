"""The notebook runs from top to bottom, and what it shows is committed with it."""

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support import PROJECT
from tests.support.ports import free_port

NOTEBOOK = PROJECT / "notebooks" / "quickstart.ipynb"


def read_notebook() -> nbformat.NotebookNode:
    notebook: nbformat.NotebookNode = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def outputs(notebook: nbformat.NotebookNode) -> list[str]:
    """What each code cell gave: its text, and the kinds of its pictures."""
    given = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output.get("text", "") + " ".join(output.get("data", {})) for output in given]


@pytest.mark.cluster
def test_the_notebook_runs_and_shows_what_it_says() -> None:
    notebook = read_notebook()
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert "PORT = 8000" in first.source
    first.source = first.source.replace("PORT = 8000", f"PORT = {free_port()}")
    NotebookClient(notebook, timeout=180, resources={"metadata": {"path": str(PROJECT)}}).execute()
    shown = "\n".join(outputs(notebook))
    assert shown.count("image/png") == 3
    assert "ROMEO:" in shown
    assert "model_not_found" in shown


def test_the_outputs_are_committed() -> None:
    shown = "\n".join(outputs(read_notebook()))
    assert shown.count("image/png") == 3
    assert "model_not_found – no model 'gpt-nanno'; did you mean 'gpt-nano'?" in shown
