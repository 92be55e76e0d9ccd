"""A compiled forward lets other threads go on, and drops the weights that it was lent."""

import gc
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from deployments.engines.text.engine import TextGenerationEngine
from tests.deployments.engines.text.compiled.conftest import compiled, needs_compiler
from tests.support.text_models import PATIENCE_S, PROMPTS, Reference, ask


@needs_compiler
def test_a_closed_model_takes_its_weights_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three models of a kind, one after the other; each lends its library what it has, and gets it back."""
    reference = Reference(folder)
    for _ in range(3):
        engine = TextGenerationEngine.load(folder)
        aot = compiled(engine)
        assert reference.agrees(PROMPTS[0], 12, ask(engine, PROMPTS[0], 12).text)
        weights = aot._model.get_parameter("model.embed_tokens.weight").untyped_storage()
        engine.close()
        del aot, engine
        gc.collect()
        assert torch._C._storage_Use_Count(weights._cdata) == 1


@needs_compiler
def test_other_threads_run_while_a_compiled_step_computes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever carries requests and answers needs Python's lock; torch's own loader would hold it."""
    engine = TextGenerationEngine.load(folder)
    aot = compiled(engine)
    step = aot.ready["many"]
    keys = [torch.zeros(512, heads, 512, dim) for heads, dim in aot._shapes]  # So that it takes some time.
    values, ids = [torch.zeros_like(key) for key in keys], torch.ones(512, dtype=torch.long)
    computing, seen = threading.Event(), threading.Event()

    def compute() -> None:
        with torch.inference_mode():
            for _ in range(50):
                computing.set()
                step(ids, ids, keys, values)
                computing.clear()
                if seen.is_set():
                    return

    before = sys.getswitchinterval()
    sys.setswitchinterval(PATIENCE_S)  # Who has the lock keeps it until it waits for something.
    thread = threading.Thread(target=compute)
    try:
        thread.start()
        while thread.is_alive() and not seen.is_set():
            time.sleep(0.0005)  # This thread gets the lock back in the middle of a step, or never.
            if computing.is_set():
                seen.set()
        thread.join()
    finally:
        sys.setswitchinterval(before)
    engine.close()
    assert seen.is_set()
