"""Files that are cut while a model is in memory: a mapping of them would end the process with SIGBUS."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import PROJECT
from tests.support.embedding.models import NORMALIZE, pooling, save_encoder, save_modules
from tests.support.tiny_models import save_image_model, save_text_model


@pytest.mark.compiles
def test_a_model_in_memory_answers_as_before_when_its_files_are_cut(tmp_path: Path) -> None:
    save_text_model(tmp_path / "text")
    save_image_model(tmp_path / "image")
    save_modules(save_encoder(tmp_path / "encoder"), pooling("mean"), NORMALIZE)
    command = [sys.executable, "-m", "tests.hostile.truncated", str(tmp_path)]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=180, check=False)
    assert (run.returncode, run.stdout.splitlines()[-1:]) == (0, ["changed: []"]), run.stderr
