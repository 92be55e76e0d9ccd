"""A tiny text model, and an empty store of each kind."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tests.support.tiny_models import save_text_model


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole folder. Tests copy it and leave it as it is."""
    return save_text_model(tmp_path_factory.mktemp("text-model") / "m")


@pytest.fixture(params=("memory", "file"))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty store."""
    if request.param == "file":
        yield f"file://{tmp_path}/store"
        return
    yield from _memory_store()


@pytest.fixture
def memory_store() -> Iterator[str]:
    yield from _memory_store()


def _memory_store() -> Iterator[str]:
    yield "memory://store"
    system = fsspec.filesystem("memory")
    if system.exists("/store"):
        system.rm("/store", recursive=True)
