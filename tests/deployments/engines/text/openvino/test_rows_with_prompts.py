"""Rows and prompts in one forward: no text changes by it, and a prompt that fails takes no row with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from deployments.contract.errors import OutOfMemory
from deployments.engines.text.loop import DecoderLoop
from deployments.engines.text.openvino.paged_decoder import PagedDecoder
from deployments.engines.text.tokenizer import Tokenizer
from tests.support.text_models import PROMPTS, load_openvino, save_long_model

pytestmark = pytest.mark.compiles

LONG = "the quick brown fox jumps over the lazy dog and then some more words follow it " * 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_long_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def decoder(folder: Path) -> Iterator[PagedDecoder]:
    engine = load_openvino(folder)
    assert isinstance(engine.loop, DecoderLoop)
    assert isinstance(engine.loop.decoder, PagedDecoder)
    yield engine.loop.decoder
    engine.close()


@pytest.fixture
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


def test_rows_and_prompts_in_one_forward_have_the_logits_of_two(decoder: PagedDecoder, tokenizer: Tokenizer) -> None:
    first, second, third = (tokenizer.encode(text) for text in (LONG[:150], LONG[:140], PROMPTS[0]))
    tokens = decoder.prefill([first]).best
    apart = [decoder.step(tokens).logits.clone(), decoder.prefill([second, third, second]).logits.clone()]
    after = decoder.step([5, 6, 7, 8]).logits.clone()
    decoder.clear()
    assert decoder.prefill([first]).best == tokens
    together = decoder.prefill([second, third, second], tokens)
    assert torch.allclose(together.logits, torch.cat(apart), atol=1e-4)
    assert torch.allclose(decoder.step([5, 6, 7, 8]).logits, after, atol=1e-4)
    decoder.clear()


def test_rows_step_with_the_chunks_of_a_prompt(
    decoder: PagedDecoder, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PagedDecoder, "chunk_size", 32)
    short, long = (tokenizer.encode(text) for text in (PROMPTS[0], LONG[:300]))
    chunks = -(-len(long) // 32)
    steps = [decoder.prefill([short])]
    for _ in range(chunks):
        steps.append(decoder.step(steps[-1].best))
    expected = [step.best[0] for step in steps]
    [alone] = decoder.prefill([long]).best
    decoder.clear()
    tokens, chunked = decoder.prefill([short]).best, decoder.begin_chunked(long)
    found = [tokens]
    for _ in range(chunks):
        output = chunked.send(found[-1][:1])
        assert output is not None
        found.append(output.best)
    assert [best[0] for best in found] == expected
    assert found[-1][1:] == [alone]
    assert decoder.rows == 2
    decoder.clear()


def test_a_forward_that_finds_no_block_for_a_prompt_leaves_rows_as_they_were(
    decoder: PagedDecoder, tokenizer: Tokenizer
) -> None:
    short, long = (tokenizer.encode(text) for text in (PROMPTS[0], LONG))
    tokens = decoder.prefill([short]).best
    spare = [decoder._pool.take() for _ in range(len(decoder._pool._free) - 2)]
    held = dict(decoder._pool._rows)
    with pytest.raises(OutOfMemory):
        decoder.prefill([long, long], tokens)
    assert dict(decoder._pool._rows) == held
    assert decoder._texts == [short]
    decoder._pool.release(spare)
    decoder.clear()
