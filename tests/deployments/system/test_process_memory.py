"""What a model took comes back. The 500 cycles are `python -m benchmarks.residency.__main__ cycles`."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import PROJECT
from tests.support.tiny_models import save_image_model, save_text_model

CYCLES = """
import sys
from pathlib import Path
import torch
from deployments.engines.vision.engine import ImageClassificationEngine
from deployments.engines.text.engine import TextGenerationEngine
from deployments.system.artifact_cache import ArtifactCache
from deployments.system.process_memory import ProcessMemory, unload
torch.set_num_threads(1)
memory, text, image, sizes = ProcessMemory(), Path(sys.argv[1]), Path(sys.argv[2]), []
cache = ArtifactCache(Path(sys.argv[3]), 1 << 30)
for cycle in range(16):
    for engine in (
        TextGenerationEngine.load(text, cache=cache),
        ImageClassificationEngine.load(image),
    ):
        ballast = torch.ones(2**22)  # 16 MiB that go with the engine
        close = engine.close
        del engine
        unload(type("Both", (), {"close": staticmethod(lambda: (close(), globals().pop("ballast")))}), 2**24, memory)
    sizes.append(memory.held() / 2**20)
print(max(sizes[4:]) - min(sizes[4:]))
"""


@pytest.mark.slow
def test_loads_and_unloads_leave_the_process_as_large_as_it_was(tmp_path: Path) -> None:
    folders = [
        str(save_text_model(tmp_path / "text")),
        str(save_image_model(tmp_path / "image")),
        str(tmp_path / "converted"),
    ]
    run = subprocess.run(
        [sys.executable, "-c", CYCLES, *map(str, folders)], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert not run.returncode, run.stderr
    assert float(run.stdout) < 4  # MiB, in twelve cycles
