"""Compiled forwards give what eager ones give; without them, and while they are compiled, the model serves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deployments.contract.types import SamplingOptions
from deployments.engines.device import resize_openmp_pool
from deployments.engines.text.compiled import artifacts
from deployments.engines.text.compiled.artifacts import Kind
from deployments.engines.text.engine import TextGenerationEngine
from tests.deployments.engines.text.compiled.conftest import aot_of, compiled, needs_compiler
from tests.support.text_models import PATIENCE_S, PROMPTS, SLOTS, Listener, Reference, ask
from tests.support.until import wait_until


def counted(called: dict[Kind, int], kind: Kind, forward: Callable[..., Any]) -> Any:
    def call(*inputs: object) -> object:
        called[kind] += 1
        return forward(*inputs)

    return call


@needs_compiler
def test_compiled_forwards_give_the_text_of_generate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row, then 9 rows in 16 slots, then fewer and fewer."""
    sizes: list[int] = []

    def resize(size: int) -> None:
        sizes.append(size)
        resize_openmp_pool(size)

    monkeypatch.setattr(artifacts, "resize_openmp_pool", resize)
    engine, reference = TextGenerationEngine.load(folder), Reference(folder)
    aot = compiled(engine)
    assert sizes == 3 * [1, torch.get_num_threads()], "a pool may become smaller"
    assert aot._blocked_weights or torch.backends.cpu.get_cpu_capability() != "AVX512"
    assert engine.runtime_info == (
        SLOTS,
        "compiled decode step",
        "compiled prompts",
    )
    called: dict[Kind, int] = dict.fromkeys(aot.ready, 0)
    for kind, forward in aot.ready.items():
        monkeypatch.setitem(aot.ready, kind, counted(called, kind, forward))
    assert reference.agrees(PROMPTS[0], 60, ask(engine, PROMPTS[0], 60).text)
    for prompt in ("a", "ab"):  # A prompt of one token, and of two.
        assert reference.agrees(prompt, 10, ask(engine, prompt, 10).text)
    for prompt in ("zq" * 35 + "1", "zq" * 35 + "2"):  # The second begins with a block that the first has left.
        assert reference.agrees(prompt, 10, ask(engine, prompt, 10).text)
    assert engine.loop.shared_tokens == 64
    listeners = [Listener() for _ in range(9)]
    for number, listener in enumerate(listeners):
        engine.submit(PROMPTS[number % 5], 6 + 6 * number, SamplingOptions(), listener)
    for number, listener in enumerate(listeners):
        listener.finished()
        assert reference.agrees(PROMPTS[number % 5], 6 + 6 * number, listener.text)
    assert all(called.values()), called
    monkeypatch.undo()
    engine.close()


@needs_compiler
def test_closing_ends_the_compiler(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "cache_dir", lambda: str(tmp_path))
    engine = TextGenerationEngine.load(folder)
    aot = aot_of(engine)
    aot.compile_soon()
    wait_until(lambda: aot._worker.process is not None or aot.settled.is_set())
    engine.close()
    assert aot.settled.is_set()
    assert aot._worker.process is None
    assert {place.name for place in (tmp_path / "text-steps").iterdir()} == {".lock"}


@needs_compiler
def test_a_compiler_is_not_started_once_the_model_is_closed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "cache_dir", lambda: str(tmp_path))
    engine = TextGenerationEngine.load(folder)
    aot = aot_of(engine)
    with artifacts._one_compile_at_a_time:  # another model is being compiled
        aot.compile_soon()
        engine.close()
    assert aot.settled.is_set()
    assert aot._worker.process is None


def test_without_a_compiler_the_model_serves_and_logs_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(artifacts, "cache_dir", lambda: str(tmp_path))
    monkeypatch.setattr(artifacts, "COMPILERS", ())
    engine = TextGenerationEngine.load(folder)
    assert aot_of(engine).settled.wait(PATIENCE_S)
    assert ask(engine, PROMPTS[0], 5).finished().completion_tokens == 5
    assert engine.runtime_info == (SLOTS,)
    engine.close()
    assert not [record for record in caplog.records if record.name.startswith("deployments")]


def test_a_library_of_another_user_is_not_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "cache_dir", lambda: str(tmp_path))
    (tmp_path / "text-steps").mkdir()
    (tmp_path / "text-steps").chmod(0o777)
    engine = TextGenerationEngine.load(folder)
    assert aot_of(engine).settled.wait(PATIENCE_S)
    assert not aot_of(engine).runtime_info
    engine.close()
