"""Text grows by whole characters, and no part of a stop string is released."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from deployments.engines.text.detokenizer import Detokenizer
from deployments.engines.text.tokenizer import Tokenizer
from tests.deployments.engines.text.spelling.tokenizers import KINDS, TEXT, llama_tokenizer, tokenizer_of
from tests.support import sweep
from tests.support.text_models import byte_level_tokenizer


@pytest.fixture(params=[byte_level_tokenizer, llama_tokenizer], scope="module")
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


@pytest.mark.parametrize("text", ["a\nb", "a 🎉 b"])
def test_a_stop_string_of_byte_tokens_ends_the_text_with_its_last_token(text: str) -> None:
    tokens = Tokenizer(llama_tokenizer())
    ids, stop = tokens.encode(text), text[1:-1].strip(" ")
    detokenizer = Detokenizer(tokens, [], (stop,))
    parts = []
    while not detokenizer.stopped:
        parts.append(detokenizer.add(ids.pop(0)))
    assert "".join(parts) == text[: text.index(stop)]
    assert tokens.decode(ids).strip() == "b"


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_streamed_and_whole_are_the_same_text_where_it_is_cut(tokens: Tokenizer, cut: int) -> None:
    ids = tokens.encode("naïve 日本🎉")[:-cut]
    parts = told(tokens, ids[:1], ids[1:])
    whole = Detokenizer(tokens, ids[:1]).add_all(ids[1:])
    assert "".join(parts) == whole
    assert whole.rstrip("\ufffd").endswith("日本")


@pytest.mark.parametrize("kind", sweep(KINDS, "byte level", "byte fallback (Llama 2)", "WordPiece"))
@settings(max_examples=50)
@given(text=some.lists(some.sampled_from([*"aé日🎉 .'\n", "word"])), dice=some.data())
def test_a_stop_string_ends_the_text_where_it_first_stands(kind: str, text: list[str], dice: some.DataObject) -> None:
    tokens = Tokenizer(tokenizer_of(kind))
    ids = tokens.encode("".join(text))
    whole = Detokenizer(tokens, []).add_all(ids)
    begin = dice.draw(some.integers(0, max(0, len(whole) - 1)))
    stop = whole[begin : begin + dice.draw(some.integers(1, 4))]
    got = "".join(told(tokens, [], ids, (stop,) if stop else ()))
    assert got == (whole[: whole.index(stop)] if stop else whole)
