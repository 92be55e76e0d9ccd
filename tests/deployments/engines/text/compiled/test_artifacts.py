"""What is compiled says what the eager forward says; without it, and while it is made, nothing is missed."""

import gc
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deployments.contract.types import SamplingOptions
from deployments.engines.device import use_team
from deployments.engines.probes import ProbeCache
from deployments.engines.text.compiled import artifacts
from deployments.engines.text.compiled.artifacts import COMPILERS, Programs
from deployments.engines.text.compiled.compile_worker import blank_model
from deployments.engines.text.decoders.slots import SlotDecoder
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.layers.linear import PackedLinear
from deployments.engines.text.loop import DecoderLoop
from deployments.engines.text.model import CausalModel
from tests.support.text_models import PATIENCE_S, PROMPTS, SLOTS, Listener, Reference, ask, save_model
from tests.support.until import wait_until

COMPILE_S = 280.0
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="there is no C++ compiler")


@pytest.fixture(autouse=True)
def worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is faster is not the claim here: other processes use the machine, too."""
    monkeypatch.setattr(artifacts, "WORTH_IT", 0.0)


def programs_of(engine: TextGenerationEngine) -> Programs:
    assert isinstance(engine._loop, DecoderLoop)
    decoder = engine._loop.decoder
    assert isinstance(decoder, SlotDecoder)
    assert decoder.programs
    return decoder.programs


def counted(called: dict[str, int], kind: str, forward: Callable[..., Any]) -> Any:
    def call(*inputs: object) -> object:
        called[kind] += 1
        return forward(*inputs)

    return call


@needs_compiler
def test_compiled_steps_say_what_generate_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, then 9 rows in 16 slots, then fewer and fewer. Libraries stay on disk, so that a second run is quick."""
    monkeypatch.setattr(artifacts, "NICENESS", 0)  # Nobody is served meanwhile.
    tried: list[int] = []
    monkeypatch.setattr(artifacts, "use_team", lambda size: [tried.append(size), use_team(size)])
    engine, reference = TextGenerationEngine.load(folder), Reference(folder)
    programs = programs_of(engine)
    programs.want()
    assert programs.settled.wait(COMPILE_S)
    assert programs._ready.keys() == {"single", "many", "prompts"}
    assert tried == 3 * [1, torch.get_num_threads()], "a team may become smaller"
    assert programs._blocks or torch.backends.cpu.get_cpu_capability() != "AVX512"
    assert engine.runtime_info == (
        SLOTS,
        "compiled decode step",
        "compiled prompts",
    )
    called = dict.fromkeys(programs._ready, 0)
    for kind, forward in programs._ready.items():
        monkeypatch.setitem(programs._ready, kind, counted(called, kind, forward))
    assert reference.agrees(PROMPTS[0], 60, ask(engine, PROMPTS[0], 60).text)
    for prompt in ("a", "ab"):  # A prompt of one token, and of two.
        assert reference.agrees(prompt, 10, ask(engine, prompt, 10).text)
    for prompt in ("zq" * 35 + "1", "zq" * 35 + "2"):  # The second begins with a block that the first has left.
        assert reference.agrees(prompt, 10, ask(engine, prompt, 10).text)
    assert engine.stats.shared_tokens == 64
    listeners = [Listener() for _ in range(9)]
    for number, listener in enumerate(listeners):
        engine.submit(PROMPTS[number % 5], 6 + 6 * number, SamplingOptions(), listener)
    for number, listener in enumerate(listeners):
        listener.finished()
        assert reference.agrees(PROMPTS[number % 5], 6 + 6 * number, listener.text)
    assert all(called.values()), called
    monkeypatch.undo()
    engine.close()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "qwen2"])
def test_what_compiles_packs_the_layers_that_are_packed_where_it_serves(kind: str, tmp_path: Path) -> None:
    """GPT-2's output layer is its embedding too, and stays plain."""
    loaded = CausalModel.load(save_model(tmp_path, kind), "cpu", None, ProbeCache(None, "cpu", None))
    blank = blank_model(str(tmp_path), torch.float32, "sdpa", loaded.linears, "blocks")
    packed, served = (
        {name for name, module in model.named_modules() if isinstance(module, PackedLinear)}
        for model in (blank, loaded.model)
    )
    assert packed == served
    assert packed


@needs_compiler
def test_a_closed_model_leaves_its_compiled_steps_no_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three models of a kind, one after the other; each lends its library what it has, and gets it back."""
    monkeypatch.setattr(artifacts, "NICENESS", 0)
    reference = Reference(folder)
    for _ in range(3):
        engine = TextGenerationEngine.load(folder)
        programs = programs_of(engine)
        programs.want()
        assert programs.settled.wait(COMPILE_S)
        assert programs._ready.keys() == {"single", "many", "prompts"}
        assert reference.agrees(PROMPTS[0], 12, ask(engine, PROMPTS[0], 12).text)
        weights = programs._model.get_input_embeddings().weight.untyped_storage()
        engine.close()
        del programs, engine
        gc.collect()
        assert torch._C._storage_Use_Count(weights._cdata) == 1


@needs_compiler
def test_others_go_on_while_a_compiled_step_computes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever carries requests and answers needs Python's lock; torch's own loader would hold it."""
    monkeypatch.setattr(artifacts, "NICENESS", 0)
    engine = TextGenerationEngine.load(folder)
    programs = programs_of(engine)
    programs.want()
    assert programs.settled.wait(COMPILE_S)
    step = programs._ready["many"]
    keys = [torch.zeros(512, heads, 512, dim) for heads, dim in programs._shapes]  # So that it takes some time.
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


@needs_compiler
def test_closing_ends_the_compiler(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "cache_dir", lambda: str(tmp_path))
    engine = TextGenerationEngine.load(folder)
    programs = programs_of(engine)
    programs.want()
    wait_until(lambda: programs._worker.pid is not None or programs.settled.is_set())
    engine.close()
    assert programs.settled.is_set()
    assert programs._worker.pid is None
    assert {place.name for place in (tmp_path / "text-steps").iterdir()} == {".lock"}


@needs_compiler
def test_a_compiler_is_not_started_once_the_model_is_closed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "cache_dir", lambda: str(tmp_path))
    engine = TextGenerationEngine.load(folder)
    programs = programs_of(engine)
    with artifacts._one_compile_at_a_time:  # another model is being compiled
        programs.want()
        engine.close()
    assert programs.settled.is_set()
    assert programs._worker.pid is None


def test_without_a_compiler_the_model_serves_without_complaint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(artifacts, "cache_dir", lambda: str(tmp_path))
    monkeypatch.setattr(artifacts, "COMPILERS", ())
    engine = TextGenerationEngine.load(folder)
    assert programs_of(engine).settled.wait(PATIENCE_S)
    assert ask(engine, PROMPTS[0], 5).finished().completion_tokens == 5
    assert engine.runtime_info == (SLOTS,)
    engine.close()
    assert not [record for record in caplog.records if record.name.startswith("deployments")]


def test_a_library_of_someone_else_is_not_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "cache_dir", lambda: str(tmp_path))
    (tmp_path / "text-steps").mkdir()
    (tmp_path / "text-steps").chmod(0o777)
    engine = TextGenerationEngine.load(folder)
    assert programs_of(engine).settled.wait(PATIENCE_S)
    assert not programs_of(engine).runtime_info
    engine.close()
