"""What an operator asks while the repository changes."""

from pathlib import Path
from typing import Any

import pytest

from deployments.model_board import Table
from deployments.repository import Model
from serve_app.administration import Administration
from serve_app.catalog import Catalog


async def test_a_model_that_goes_while_its_status_is_asked_is_told_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = Catalog()
    catalog.table = Table({"m": Model("m", None, Path("m"), "a", "text_generation")})
    catalog._there.set()

    async def everywhere(*_: object) -> list[object]:
        catalog.table = Table()
        return []

    monkeypatch.setattr("serve_app.administration.everywhere", everywhere)
    handle: Any = None
    assert (await Administration(catalog, {"text_generation": handle}).model("m")).state == "available"
