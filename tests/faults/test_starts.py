"""`make test-faults`: starts and stops in a row, none of which fails or leaves anything. FAULTS_STARTS=200 for more."""

import os
import tempfile
import time
from pathlib import Path

import pytest

from serve_app.supervisor.left import PREFIX, SHARED_MEMORY
from tests.faults.served import serving
from tests.support.ports import free_port
from tests.support.tiny_models import save_text_model

STARTS = int(os.environ.get("FAULTS_STARTS", "5"))

pytestmark = [
    pytest.mark.skipif("FAULTS" not in os.environ, reason="make test-faults: minutes"),
    pytest.mark.timeout(STARTS * 120),
]


def files() -> set[Path]:
    """What a start makes outside of its models and its cache."""
    return {*Path(tempfile.gettempdir()).glob(f"{PREFIX}*"), *SHARED_MEMORY.glob("*KMP*")}


def test_starts_always_start_and_leave_nothing(tmp_path: Path) -> None:
    models, before = tmp_path / "models", files()
    save_text_model(models / "text")
    for number in range(1, STARTS + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        begun = time.monotonic()
        with serving(folder, free_port(), models, "{}"):  # which says what processes are left
            ready_s = time.monotonic() - begun
        print(
            f"start {number} of {STARTS}: ready after {ready_s:.0f} s, stopped after {time.monotonic() - begun:.0f} s"
        )
        assert files() <= before
