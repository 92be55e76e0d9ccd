"""Prompts share prefixes, long ones are prefilled in chunks: no text changes by it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.contract.types import SamplingOptions
from deployments.engines.text.decoders import slots
from deployments.engines.text.decoders.decoder import ChunkedPrefill
from deployments.engines.text.decoders.prefixes import BLOCK, PrefixKV
from deployments.engines.text.engine import TextGenerationEngine
from tests.support.text_models import PROMPTS, Listener, PausedListener, Reference, ask, load, save_long_model

LONG = "the quick brown fox jumps over the lazy dog and then some more words follow it " * 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_long_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder, 1024)


@pytest.fixture
def engine(folder: Path) -> Iterator[TextGenerationEngine]:
    engine = load(folder)
    yield engine
    engine.close()


def test_a_prompt_that_begins_as_an_earlier_one_computes_only_the_rest(
    engine: TextGenerationEngine, reference: Reference
) -> None:
    first, second = LONG + "once", LONG + "upon a time"
    assert reference.agrees(first, 30, ask(engine, first, 30).text)
    assert engine.loop.shared_tokens == 0
    assert reference.agrees(second, 30, ask(engine, second, 30).text)
    common = len(reference.tokenizer(LONG).input_ids)
    assert common - 2 * BLOCK < engine.loop.shared_tokens <= common
    assert reference.agrees(second, 30, ask(engine, second, 30).text)


def test_equal_prompts_at_once_are_computed_once(
    engine: TextGenerationEngine, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    compute = slots.SlotDecoder._compute

    def counted(self: slots.SlotDecoder, begun: list[PrefixKV], prompts: list[tuple[int, ...]]) -> object:
        computed.append(len(prompts))
        return compute(self, begun, prompts)

    monkeypatch.setattr(slots.SlotDecoder, "_compute", counted)
    gate, crowd = PausedListener(), [Listener() for _ in range(6)]
    engine.submit(PROMPTS[1], 20, SamplingOptions(), gate)
    assert gate.started.wait(60)
    for listener in crowd:
        engine.submit(PROMPTS[0], 20, SamplingOptions(), listener)
    gate.resumed.set()
    for listener in crowd:
        listener.finished()
        assert reference.agrees(PROMPTS[0], 20, listener.text)
    assert computed == [1, 1]


def test_first_tokens_do_not_wait_for_all_prompts_that_wait(
    engine: TextGenerationEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []  # How many had their first text when a group of prompts was computed.
    gate, crowd = PausedListener(), [Listener() for _ in range(6)]
    compute = slots.SlotDecoder._compute

    def watched(self: slots.SlotDecoder, begun: list[PrefixKV], prompts: list[tuple[int, ...]]) -> object:
        told.append(sum(bool(listener.events) for listener in crowd))
        return compute(self, begun, prompts)

    monkeypatch.setattr(slots.SlotDecoder, "_compute", watched)
    engine.submit(PROMPTS[1], 40, SamplingOptions(), gate)
    assert gate.started.wait(60)
    for number, listener in enumerate(crowd):
        engine.submit(f"{number} {LONG}"[:64], 20, SamplingOptions(), listener)
    gate.resumed.set()
    for listener in crowd:
        listener.finished()
    assert told[0] == told[1] == 0
    assert 0 < told[2] < 6


def test_a_long_prompt_is_prefilled_in_chunks_while_others_run(
    engine: TextGenerationEngine, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots.SlotDecoder, "chunk_size", 32)
    gate, long, after = PausedListener(), Listener(), Listener()
    engine.submit(PROMPTS[0], 40, SamplingOptions(), gate)
    assert gate.started.wait(60)
    engine.submit(LONG, 30, SamplingOptions(), long)
    engine.submit(PROMPTS[2], 5, SamplingOptions(), after)
    gate.resumed.set()
    for prompt, tokens, listener in ((PROMPTS[0], 40, gate), (LONG, 30, long), (PROMPTS[2], 5, after)):
        listener.finished()
        assert reference.agrees(prompt, tokens, listener.text)
    assert after.ended_at < long.started_at, "the short one did not wait for the long one's prompt"


def test_a_long_prompt_can_be_cancelled_between_chunks(
    engine: TextGenerationEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots.SlotDecoder, "chunk_size", 32)
    listener = Listener()
    begin = slots.SlotDecoder.begin_chunked

    def cancelled(self: slots.SlotDecoder, prompt: list[int]) -> ChunkedPrefill:
        for output in begin(self, prompt):
            generation.cancel()
            yield output

    monkeypatch.setattr(slots.SlotDecoder, "begin_chunked", cancelled)
    gate = PausedListener()
    engine.submit(PROMPTS[0], 3, SamplingOptions(), gate)
    assert gate.started.wait(60)
    generation = engine.submit(LONG, 30, SamplingOptions(), listener)
    gate.resumed.set()
    assert listener.finished().finish_reason == "cancelled"
    assert listener.finished().completion_tokens == 0
    gate.finished()
    assert engine.loop.running == 0
