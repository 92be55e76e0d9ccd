"""The library's continuous batching, watched: what our own loop promises holds for it, and its death is survived."""

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from deployments.contract.chunk import Chunk
from deployments.contract.errors import Internal, Unavailable
from deployments.contract.types import SamplingOptions
from deployments.engines.text import paged, paged_library
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.paged import PagedLoop
from tests.support.text_models import (
    PATIENCE_S,
    PROMPTS,
    Listener,
    PausedListener,
    Reference,
    ask,
    load_openvino,
    load_paged,
    save_long_model,
)

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 99}}, "required": ["n"]}

POISON = "🎉"

dies = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # It is what the test does.


@pytest.fixture
def engine(folder: Path) -> Iterator[TextGenerationEngine]:
    engine = load_paged(folder, max_batch_size=4)
    yield engine
    engine.close()


def loop_of(engine: TextGenerationEngine) -> PagedLoop:
    assert isinstance(engine.loop, PagedLoop)
    return engine.loop


def kill_the_thread_of(engine: TextGenerationEngine) -> None:
    """As silently as it could end: nobody is told."""
    stepping = loop_of(engine)._stepping
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(stepping or 0), ctypes.py_object(SystemExit)) == 1


@pytest.mark.compiles
@pytest.mark.parametrize(
    "sampling",
    [
        SamplingOptions(temperature=0.9, top_p=0.9, seed=11),
        SamplingOptions(temperature=1.5, top_k=20, min_p=0.02, seed=12),
        SamplingOptions(repetition_penalty=1.4),
        SamplingOptions(json_schema=SCHEMA),
        SamplingOptions(logprobs=2),
    ],
)
def test_every_sampling_option_gives_the_text_of_our_own_loop(
    engine: TextGenerationEngine, folder: Path, sampling: SamplingOptions
) -> None:
    own = load_openvino(folder)
    ours, theirs = (ask(one, PROMPTS[0], 30, sampling) for one in (own, engine))
    own.close()
    assert theirs.text == ours.text
    assert theirs.finished() == ours.finished()
    told = [
        [one.utf8 for chunk in listener.events if isinstance(chunk, Chunk) for one in chunk.logprobs]
        for listener in (ours, theirs)
    ]
    assert told[0] == told[1]


@dies
def test_a_thread_that_dies_fails_its_requests_and_the_next_ones_are_answered(
    engine: TextGenerationEngine, reference: Reference, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that still waited lose nothing."""
    gate, others, late = PausedListener(), [Listener() for _ in range(3)], [Listener() for _ in range(3)]
    engine.submit(PROMPTS[0], 60, SamplingOptions(), gate)
    assert gate.started.wait(PATIENCE_S)
    for listener in [*others, *late]:
        engine.submit(PROMPTS[1], 20, SamplingOptions(), listener)
    kill_the_thread_of(engine)
    gate.resumed.set()
    for listener in [gate, *others]:
        end = listener.end()
        assert isinstance(end, Unavailable)
    for listener in late:
        listener.finished()
        assert reference.agrees(PROMPTS[1], 20, listener.text)
    assert "restarted" in caplog.text
    assert reference.agrees(PROMPTS[0], 40, ask(engine, PROMPTS[0], 40).text)
    assert engine.loop.running == engine.loop.waiting == 0


@dies
def test_a_thread_that_dies_while_idle_is_started_for_the_next_request(
    engine: TextGenerationEngine, reference: Reference
) -> None:
    ask(engine, PROMPTS[0], 5)
    manager = loop_of(engine)._manager
    assert manager is not None
    kill_the_thread_of(engine)
    assert manager._generation_thread is not None
    manager._generation_thread.join(PATIENCE_S)
    assert not manager.is_running()
    assert reference.agrees(PROMPTS[0], 20, ask(engine, PROMPTS[0], 20).text)


def test_a_step_that_fails_fails_its_requests_and_the_next_one_is_answered(
    engine: TextGenerationEngine, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = PausedListener()
    engine.submit(PROMPTS[0], 60, SamplingOptions(), gate)
    assert gate.started.wait(PATIENCE_S)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret of the model")

    model = model_of(engine)
    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", broken)
        gate.resumed.set()
        end = gate.end()
    assert isinstance(end, Internal)
    assert "secret" not in end.message
    assert reference.agrees(PROMPTS[0], 20, ask(engine, PROMPTS[0], 20).text)


@pytest.mark.slow
def test_only_the_request_whose_logits_are_nan_fails(
    engine: TextGenerationEngine, reference: Reference, caplog: pytest.LogCaptureFixture
) -> None:
    """All attend under one mask, so its neighbours get NaN too; each of them goes on from where it was."""
    model = model_of(engine)
    poison = reference.tokenizer(POISON).input_ids[-1]
    with torch.no_grad():
        model.get_parameter("model.embed_tokens.weight")[poison] = float("nan")
    gate, others, broken = PausedListener(), [Listener() for _ in range(4)], [Listener() for _ in range(2)]
    engine.submit(PROMPTS[1], 60, SamplingOptions(), gate)
    assert gate.started.wait(PATIENCE_S)
    for listener in (others[0], broken[0], *others[1:], broken[1]):
        engine.submit(POISON if listener in broken else PROMPTS[2], 20, SamplingOptions(), listener)
    gate.resumed.set()
    for listener in broken:
        end = listener.end()
        assert isinstance(end, Internal)
    assert gate.finished().completion_tokens == 60
    assert reference.agrees(PROMPTS[1], 60, gate.text)
    for listener in others:
        assert listener.finished().prompt_tokens == len(reference.tokenizer(PROMPTS[2]).input_ids)
        assert reference.agrees(PROMPTS[2], 20, listener.text)
    assert "not finite" in caplog.text
    assert engine.loop.running == engine.loop.waiting == 0


def test_requests_that_outgrow_the_cache_are_all_answered(
    folder: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some give their pages up meanwhile and are computed again."""
    monkeypatch.setattr(paged_library, "LEAST_CACHE_BYTES", 0)
    monkeypatch.setattr(paged_library, "PAGE", {"cpu": 8})
    engine = load_paged(folder)
    pages = loop_of(engine)._config.num_blocks
    assert pages is not None
    listeners = [Listener() for _ in range(3 * pages * 8 // 80)]
    for listener in listeners:
        engine.submit(PROMPTS[2], 80, SamplingOptions(), listener)
    for listener in listeners:
        listener.finished()
        assert reference.agrees(PROMPTS[2], 80, listener.text)
    engine.close()


def test_a_request_ends_before_it_outgrows_the_whole_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged, "pages", lambda loaded, max_rows: (8, 5, 1))
    engine = load_paged(folder)
    end = ask(engine, PROMPTS[2], 80).finished()
    assert end.prompt_tokens + end.completion_tokens == 32
    assert end.finish_reason == "length"
    engine.close()


def test_a_prompt_that_begins_as_an_earlier_one_shares_its_pages(tmp_path: Path) -> None:
    engine, reference = load_paged(save_long_model(tmp_path)), Reference(tmp_path, 1024)
    beginning = "the quick brown fox jumps over the lazy dog and then some more words follow it " * 3
    for end in ("once", "upon a time"):
        assert reference.agrees(beginning + end, 20, ask(engine, beginning + end, 20).text)
    common = len(reference.tokenizer(beginning).input_ids)
    assert common - 2 * paged_library.PAGE["cpu"] < engine.loop.shared_tokens <= common
    engine.close()


def test_a_library_that_does_not_start_fails_who_waits_and_is_started_again(
    engine: TextGenerationEngine, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a hybrid of attention and convolution, whose layers it does not know."""

    def refused(*_: object) -> None:
        raise ValueError("Invalid layer type: linear_attention")

    with monkeypatch.context() as patch:
        patch.setattr(type(model_of(engine)), "init_continuous_batching", refused)
        listener = Listener()
        engine.submit(PROMPTS[0], 20, SamplingOptions(), listener)
        assert isinstance(listener.end(), Internal)
    assert reference.agrees(PROMPTS[0], 20, ask(engine, PROMPTS[0], 20).text)


def model_of(engine: TextGenerationEngine) -> PreTrainedModel:
    assert isinstance(engine.loop, PagedLoop)
    assert engine.loop._model is not None
    return engine.loop._model
