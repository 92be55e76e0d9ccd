"""One HAProxy for all."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.front import Front, running


@pytest.fixture(scope="session")
def front() -> Iterator[Front]:
    with tempfile.TemporaryDirectory(prefix="front-") as folder, running(Path(folder)) as front:
        yield front
