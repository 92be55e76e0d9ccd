"""What an operator asks while the repository changes."""

from pathlib import Path
from typing import Any

import pytest

from deployments.repository.model import Model
from deployments.repository.versions import Table
from serve_app.registry.admin import RegistryAdmin
from serve_app.registry.mirror import RegistryMirror


async def test_a_model_that_goes_while_its_status_is_asked_is_told_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = RegistryMirror()
    catalog.table = Table({"m": Model("m", None, Path("m"), "a", "text_generation")})
    catalog._there.set()

    async def broadcast(*_: object) -> list[object]:
        catalog.table = Table()
        return []

    monkeypatch.setattr("serve_app.registry.admin.broadcast", broadcast)
    handle: Any = None
    assert (await RegistryAdmin(catalog, {"text_generation": handle}).model("m")).state == "available"
