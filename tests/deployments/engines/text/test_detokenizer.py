"""Text grows by whole characters, and no part of a stop string is released."""

import random

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from deployments.engines.text.detokenizer import Detokenizer
from deployments.engines.text.tokenizer import Tokenizer
from tests.support.text_models import byte_level_tokenizer

TEXT = "Once upon a time, naïve 日本語 🎉 e\u0301 words  two spaces\nand lines"


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """Pieces with a leading `▁` and bytes for what has no piece, as Llama 2 has it."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] + sorted({*TEXT.replace(" ", "▁")} & {*"▁,abcdeimnopstuwz"})
    vocabulary = {piece: number for number, piece in enumerate(["<unk>", "<s>", "</s>", *pieces])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(params=[byte_level_tokenizer, metaspace_tokenizer], scope="module")
def tokens(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer(request.param())


def told(tokens: Tokenizer, prompt: list[int], ids: list[int], stop: tuple[str, ...] = ()) -> list[str]:
    text = Detokenizer(tokens, prompt, stop)
    parts = []
    for token in ids:
        parts.append(text.add(token))
        if text.stopped:
            return parts
    return [*parts, text.end()]


@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_a_continuation_is_the_whole_text_less_the_prompt(tokens: Tokenizer, cut: int) -> None:
    ids = tokens.encode(TEXT)
    prompt, rest = ids[: 1 + cut], ids[1 + cut :]
    if tokens.decode(prompt).endswith("\ufffd"):  # A prompt is whole characters.
        return
    parts = told(tokens, prompt, rest)
    assert "".join(parts) == tokens.decode(ids)[len(tokens.decode(prompt)) :]
    assert not any("\ufffd" in part for part in parts)


def test_random_tokens_give_the_text_of_a_decode_at_once() -> None:
    tokens, dice = Tokenizer(byte_level_tokenizer()), random.Random(1)
    for _ in range(200):
        ids = [dice.randrange(3, 300) for _ in range(dice.randrange(1, 40))]
        assert "".join(told(tokens, [], ids)) == tokens.decode(ids)


def test_bytes_that_never_become_characters_are_released_after_32_tokens() -> None:
    tokens = Tokenizer(byte_level_tokenizer())
    lone = tokens.encode("日")[-1]
    text = Detokenizer(tokens, [])
    parts = [text.add(lone) for _ in range(500)]
    assert sum(map(len, parts)) > 400
    assert len(text._window) < 200


@pytest.mark.parametrize("stop", ["time", " naïve", "語 🎉", "e\u0301 w", "  two", "\nand"])
def test_a_stop_string_is_cut_off_wherever_tokens_split_it(tokens: Tokenizer, stop: str) -> None:
    ids = tokens.encode(TEXT)
    parts = told(tokens, ids[:1], ids[1:], ("not there", stop, TEXT[-3:]))
    assert "".join(parts) == TEXT[: TEXT.index(stop)]


def test_the_beginning_of_a_stop_string_is_held_back_until_it_is_none(tokens: Tokenizer) -> None:
    ids = tokens.encode("aaab")
    parts = told(tokens, ids[:1], ids[1:], ("aab!",))
    assert "".join(parts) == "aaab"
    assert not any(part.endswith("aab") for part in parts[:-1])


def test_special_tokens_are_no_text(tokens: Tokenizer) -> None:
    ids = tokens.encode("a time")
    assert "".join(told(tokens, ids[:1], [*ids[1:3], 1, *ids[3:], 2])) == "a time"
