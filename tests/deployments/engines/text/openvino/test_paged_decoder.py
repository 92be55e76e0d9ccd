"""Prompts share blocks, long ones are prefilled in chunks: no text changes by it."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from deployments.contract.errors import OutOfMemory
from deployments.contract.types import SamplingOptions
from deployments.engines.text.decoders.decoder import SCORED
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.loop import DecoderLoop
from deployments.engines.text.openvino import paged_decoder
from deployments.engines.text.openvino.block_pool import Part
from deployments.engines.text.openvino.paged_decoder import Call, PagedDecoder
from deployments.engines.text.openvino.paging import BLOCK
from tests.support.text_models import PROMPTS, Listener, PausedListener, Reference, ask, load_openvino, save_long_model

pytestmark = pytest.mark.compiles

LONG = "the quick brown fox jumps over the lazy dog and then some more words follow it " * 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_long_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder, 1024)


@pytest.fixture
def engine(folder: Path) -> Iterator[TextGenerationEngine]:
    engine = load_openvino(folder)
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
    assert common - BLOCK < engine.loop.shared_tokens <= common
    assert reference.agrees(second, 30, ask(engine, second, 30).text)


def test_equal_prompts_at_once_are_computed_once(
    engine: TextGenerationEngine, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[list[int]] = []
    call = Call.__call__

    def counted(self: Call, parts: list[Part], each: bool) -> object:
        computed.append([len(part.tokens) for part in parts if len(part.tokens) > 1])
        return call(self, parts, each)

    monkeypatch.setattr(Call, "__call__", counted)
    gate, crowd = PausedListener(), [Listener() for _ in range(6)]
    engine.submit(PROMPTS[1], 20, SamplingOptions(), gate)
    assert gate.started.wait(60)
    for listener in crowd:
        engine.submit(PROMPTS[0], 20, SamplingOptions(), listener)
    gate.resumed.set()
    for listener in crowd:
        listener.finished()
        assert reference.agrees(PROMPTS[0], 20, listener.text)
    assert [len(prompts) for prompts in computed] == [1, 1]


@pytest.mark.parametrize("tokens", [0, 1])
def test_a_prompt_is_scored_in_its_chunks_and_takes_no_step(
    tokens: int, engine: TextGenerationEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[list[int]] = []
    call = Call.__call__

    def counted(self: Call, parts: list[Part], each: bool) -> object:
        computed.append([len(part.tokens) for part in parts])
        return call(self, parts, each)

    monkeypatch.setattr(Call, "__call__", counted)
    monkeypatch.setattr(PagedDecoder, "step", None)
    listener = Listener()
    engine.submit([7] * (2 * SCORED + 5), tokens, SamplingOptions(logprobs=0, prompt_logprobs=True), listener)
    assert listener.finished().completion_tokens == tokens
    assert computed == [[SCORED], [SCORED], [5]]


def test_first_tokens_do_not_wait_for_all_prompts_that_wait(
    engine: TextGenerationEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []  # How many had their first text when a group of prompts was computed.
    gate, crowd = PausedListener(), [Listener() for _ in range(6)]
    call = Call.__call__

    def watched(self: Call, parts: list[Part], each: bool) -> object:
        told.append(sum(bool(listener.events) for listener in crowd))
        return call(self, parts, each)

    monkeypatch.setattr(Call, "__call__", watched)
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
    monkeypatch.setattr(PagedDecoder, "chunk_size", 32)
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
    monkeypatch.setattr(PagedDecoder, "chunk_size", 32)
    listener = Listener()
    call = Call.__call__

    def cancelled(self: Call, parts: list[Part], each: bool) -> object:
        if len(parts[-1].tokens) == 32:
            generation.cancel()
        return call(self, parts, each)

    monkeypatch.setattr(Call, "__call__", cancelled)
    gate = PausedListener()
    engine.submit(PROMPTS[0], 3, SamplingOptions(), gate)
    assert gate.started.wait(60)
    generation = engine.submit(LONG, 30, SamplingOptions(), listener)
    gate.resumed.set()
    assert listener.finished().finish_reason == "cancelled"
    assert listener.finished().completion_tokens == 0
    gate.finished()
    assert engine.loop.running == 0


def test_the_next_turn_of_a_conversation_computes_only_what_is_new(
    engine: TextGenerationEngine, reference: Reference
) -> None:
    prompt = reference.tokenizer(LONG).input_ids
    first = Listener()
    turn = engine.submit(prompt, 100, SamplingOptions(), first)
    first.finished()
    known, shared = len(turn.tokens), engine.loop.shared_tokens
    second = Listener()
    engine.submit([*turn.tokens, *prompt[:10]], 20, SamplingOptions(), second)
    second.finished()
    assert known - BLOCK - 1 <= engine.loop.shared_tokens - shared <= known


def test_rows_that_end_give_their_blocks_back(engine: TextGenerationEngine) -> None:
    for prompt in PROMPTS:
        ask(engine, prompt, 40)
    decoder = decoder_of(engine)
    assert not decoder._pool._rows
    assert decoder.use == 0.0
    decoder.clear()
    assert decoder.nbytes == 0


def test_a_row_that_finds_no_block_fails_alone(engine: TextGenerationEngine, reference: Reference) -> None:
    decoder = decoder_of(engine)
    spare = [decoder._pool.take() for _ in range(len(decoder._pool._free) - 3)]  # the prompt takes four
    long, short = Listener(), Listener()
    engine.submit(LONG[:250], 900, SamplingOptions(), long)
    engine.submit(PROMPTS[0], 20, SamplingOptions(), short)
    assert isinstance(long.end(), OutOfMemory)
    short.finished()
    assert reference.agrees(PROMPTS[0], 20, short.text)
    decoder._pool.release(spare)


def test_a_long_prompt_that_finds_no_block_gives_back_what_it_took_once(
    engine: TextGenerationEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PagedDecoder, "chunk_size", 32)
    ask(engine, LONG, 1)
    decoder = decoder_of(engine)
    spare = [decoder._pool.take() for _ in range(len(decoder._pool._free) - 1)]
    failed = Listener()
    engine.submit(LONG[:300] + "another " * 30, 5, SamplingOptions(), failed)
    assert isinstance(failed.end(), OutOfMemory)
    decoder._pool.release(spare)
    assert not decoder._pool._rows


def test_the_cache_is_bounded_by_the_memory_of_the_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged_decoder, "node_memory", lambda: 1 << 20)
    small = load_openvino(folder)
    decoder = decoder_of(small)
    assert len(decoder._pool._free) * decoder._block_bytes <= 1 << 20
    small.close()


def decoder_of(engine: TextGenerationEngine) -> PagedDecoder:
    assert isinstance(engine.loop, DecoderLoop)
    assert isinstance(engine.loop.decoder, PagedDecoder)
    return engine.loop.decoder


def test_logits_after_proposed_tokens_are_those_of_steps_and_wrong_ones_are_taken_back(
    engine: TextGenerationEngine, reference: Reference
) -> None:
    decoder = decoder_of(engine)
    prompts = [reference.tokenizer(text).input_ids for text in (LONG[:150], PROMPTS[0])]
    firsts = decoder.prefill(prompts).best
    tokens, logits = [firsts], []
    for _ in range(2 * BLOCK):
        output = decoder.step(tokens[-1])
        tokens.append(output.best)
        logits.append(output.logits.clone())
    long, short = ([pair[row] for pair in tokens] for row in range(2))
    for _ in prompts:
        decoder.release(0)
    blocks = len(decoder._pool._rows)

    assert decoder.prefill(prompts).best == firsts
    wrong = [(short[3] + 1) % 300] * BLOCK
    output, counts = decoder.verify([long[: BLOCK + 3], [*short[:3], *wrong]])
    assert counts == [BLOCK + 3, 3]
    assert output.best == [*long[1 : BLOCK + 4], *short[1:4]]
    expected = [*(step[0] for step in logits[: BLOCK + 3]), *(step[1] for step in logits[:3])]
    assert torch.allclose(output.logits, torch.stack(expected), atol=1e-4)
    held = [-(-(len(prompt) + count) // BLOCK) for prompt, count in zip(prompts, counts, strict=True)]
    assert [len(table) for table in decoder._tables] == held
    assert len(decoder._pool._rows) == blocks + sum(held)
    after = decoder.step([long[BLOCK + 3], short[3]])
    assert after.best == [long[BLOCK + 4], short[4]]
    decoder.clear()


def test_proposed_tokens_that_find_no_block_are_dropped(engine: TextGenerationEngine, reference: Reference) -> None:
    decoder = decoder_of(engine)
    prompt = reference.tokenizer(PROMPTS[0]).input_ids
    [first] = decoder.prefill([prompt]).best
    spare = [decoder._pool.take() for _ in range(len(decoder._pool._free))]
    output, counts = decoder.verify([[first] * (BLOCK + 1)])
    assert (len(output.best), counts) == (1, [1])
    decoder._pool.release(spare)
    decoder.clear()


def test_rows_that_are_taken_back_and_extended_are_as_if_they_had_never_been_otherwise(
    engine: TextGenerationEngine, reference: Reference
) -> None:
    decoder = decoder_of(engine)
    prompts = [reference.tokenizer(text).input_ids for text in (LONG[:150], PROMPTS[0])]
    expected = decoder.prefill(prompts)
    logits = expected.logits.clone()
    kept = [prompt[:-3] for prompt in prompts]
    decoder.step([7, 8])
    decoder.extend([[9] * 2 * BLOCK, [10, 11]])
    for row, prompt in enumerate(kept):
        decoder.rewind(row, len(prompt))
    assert [len(table) for table in decoder._tables] == [-(-len(prompt) // BLOCK) for prompt in kept]
    again = decoder.extend([prompt[-3:] for prompt in prompts])
    assert again.best == expected.best
    assert torch.allclose(again.logits, logits, atol=1e-4)
    assert decoder.step(expected.best).best
    decoder.clear()


def test_logits_are_not_copied(engine: TextGenerationEngine) -> None:
    decoder = decoder_of(engine)
    decoder.prefill([[5]])
    tracemalloc.start()
    try:
        output, _ = decoder.verify([[7] * 900])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 900 * output.logits.shape[1] * 4 / 2
    decoder.clear()
