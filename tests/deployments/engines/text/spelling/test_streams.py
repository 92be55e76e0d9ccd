"""Joined, the parts of a text are what the library decodes at once, whatever the tokenizer."""

import codecs
import re
from contextlib import suppress

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as some

from deployments.engines.text.spelling.streams import MOST_HELD, DecodedStream
from deployments.engines.text.tokenizer import Tokenizer
from tests.deployments.engines.text.spelling.tokenizers import KINDS, tokenizer_of
from tests.support import sweep

every_kind = pytest.mark.parametrize("kind", sweep(KINDS, "byte level", "byte fallback (Llama 2)", "WordPiece"))
BYTE_FALLBACK = [kind for kind in KINDS if "Python" not in kind and "<0x41>" in tokenizer_of(kind).get_vocab()]
byte_fallback = pytest.mark.parametrize("kind", BYTE_FALLBACK)


def parts(tokenizer: Tokenizer, prompt: list[int], ids: list[int]) -> list[str]:
    text = tokenizer.text_after(prompt)
    return [*(text.add(token) for token in ids), text.end()]


def at_once(kind: str, ids: list[int]) -> str:
    """What the library decodes; of a byte-fallback tokenizer without the character that the end cuts."""
    source = tokenizer_of(kind)
    if kind in BYTE_FALLBACK:
        ids = [token for token in ids if token < len(source) and token not in source.all_special_ids]
        names = source.convert_ids_to_tokens(ids)
        ids = ids[: len(ids) - _cut(re.search("(<0x..>)*$", "".join(names))[0])]  # type: ignore[index]
    return str(source.decode(ids, skip_special_tokens=True))


def _cut(run: str) -> int:
    """How many bytes at the end of a run begin a character, if all before them are whole ones."""
    data = bytes.fromhex(re.sub("[^0-9A-F]", "", run.replace("0x", "")))
    for cut in range(min(4, len(data) + 1)):
        with suppress(UnicodeDecodeError):
            data[: len(data) - cut].decode()
            if codecs.utf_8_decode(data[len(data) - cut :], "strict", False) == ("", 0):
                return cut
    return 0


def tokens_of(kind: str, most: int) -> some.SearchStrategy[list[int]]:
    """Unknown ones too, but for the tokenizer that raises then."""
    known = len(tokenizer_of(kind))
    return some.lists(some.integers(0, known - 1 if "Python" in kind else known + 1), max_size=most)


@every_kind
@settings(max_examples=100)
@given(dice=some.data())
def test_any_tokens_give_what_is_decoded_at_once(kind: str, dice: some.DataObject) -> None:
    source = tokenizer_of(kind)
    ids = dice.draw(tokens_of(kind, MOST_HELD))
    assert "".join(parts(Tokenizer(source), [], ids)) == at_once(kind, ids)


@every_kind
@settings(max_examples=100)
@given(dice=some.data())
def test_any_prompt_and_what_follows_give_what_is_decoded_at_once(kind: str, dice: some.DataObject) -> None:
    source = tokenizer_of(kind)
    prompt, ids = dice.draw(tokens_of(kind, MOST_HELD // 2)), dice.draw(tokens_of(kind, MOST_HELD // 2))
    before, everything = Tokenizer(source).decode(prompt), at_once(kind, prompt + ids)
    # Not where a character is completed, or a run of bytes is none any more: it may have begun in the prompt, unseen.
    assume(everything.startswith(before))
    assume(kind not in BYTE_FALLBACK or before == str(source.decode(prompt, skip_special_tokens=True)))
    assert before + "".join(parts(Tokenizer(source), prompt, ids)) == everything


@every_kind
@settings(max_examples=100)
@given(text=some.lists(some.sampled_from([*"aé日🎉 .,'\n\u0301", "word", " n't"])), dice=some.data())
def test_a_text_is_given_back_wherever_it_is_cut(kind: str, text: list[str], dice: some.DataObject) -> None:
    ids = Tokenizer(tokenizer_of(kind)).encode("".join(text))
    cut = dice.draw(some.integers(0, len(ids)))
    before, everything = at_once(kind, ids[:cut]), at_once(kind, ids)
    assume(everything.startswith(before))
    assert before + "".join(parts(Tokenizer(tokenizer_of(kind)), ids[:cut], ids[cut:])) == everything


@byte_fallback
@pytest.mark.parametrize("characters", [1, 5, 40])
def test_a_prompt_may_end_in_a_run_of_bytes(kind: str, characters: int) -> None:
    tokenizer = Tokenizer(tokenizer_of(kind))
    prompt, more = tokenizer.encode("a " + "猫" * characters), tokenizer.encode("a 猫😀 and")
    more = more[next(at for at, token in enumerate(more) if tokenizer.decode([token]) == "\ufffd") :]
    assert "".join(parts(tokenizer, prompt, more)) == "猫😀 and"


@byte_fallback
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_only_the_character_that_the_end_cuts_is_missing(kind: str, cut: int) -> None:
    tokenizer = Tokenizer(tokenizer_of(kind))
    ids = tokenizer.encode("a 猫猫😀")[:-cut]
    assert "".join(parts(tokenizer, ids[:1], ids[1:])).lstrip("a ") == "猫猫"


@byte_fallback
def test_a_character_that_the_prompt_begins_is_given_when_it_is_whole(kind: str) -> None:
    tokenizer = Tokenizer(tokenizer_of(kind))
    ids = tokenizer.encode("a 猫😀 a")
    begun = next(at for at, token in enumerate(ids) if tokenizer.decode([token]) == "\ufffd") + 1
    assert "".join(parts(tokenizer, ids[:begun], ids[begun:])) == "猫😀 a"


@byte_fallback
def test_a_long_run_of_bytes_is_given_as_it_comes(kind: str) -> None:
    tokenizer = Tokenizer(tokenizer_of(kind))
    ids = tokenizer.encode("猫" * 40)
    given_after = [len("".join(parts(tokenizer, [], ids[:count])[:-1])) for count in range(len(ids))]
    assert max(given_after[:MOST_HELD]) <= 1  # The space before it.
    assert all(given >= count // 3 - 2 for count, given in enumerate(given_after[MOST_HELD + 3 :], MOST_HELD + 3))


@byte_fallback
def test_a_long_run_has_one_replacement_for_each_byte_that_is_no_character(kind: str) -> None:
    tokenizer = Tokenizer(tokenizer_of(kind))
    lone = next(token for token in range(3, 300) if tokenizer_of(kind).convert_ids_to_tokens(token) == "<0xE7>")
    ids = [*tokenizer.encode("猫" * 12), lone, lone, *tokenizer.encode("猫")[-3:]]
    assert "".join(parts(tokenizer, [], ids)).strip() == "猫" * 12 + "\ufffd\ufffd猫"


@every_kind
def test_special_tokens_are_no_text(kind: str) -> None:
    source = tokenizer_of(kind)
    ids = Tokenizer(source).encode("a not a")
    assert "".join(parts(Tokenizer(source), [], source.all_special_ids)) == ""
    mixed = [token for one in ids for token in (one, source.all_special_ids[0])]
    assert "".join(parts(Tokenizer(source), [], mixed)) == at_once(kind, ids)


def test_garbage_of_a_decoder_that_only_the_library_knows_is_given_in_time() -> None:
    tokenizer = Tokenizer(tokenizer_of("bytes in Python (ByT5)"))
    text = tokenizer.text_after([])
    assert isinstance(text, DecodedStream)
    for _ in range(500):
        text.add(200)
    assert len(text._window) < 200


@every_kind
def test_special_tokens_that_are_kept_stand_between_the_texts_around_them(kind: str) -> None:
    source = tokenizer_of(kind)
    before, after = (source.encode(text, add_special_tokens=False) for text in ("so it is \U0001f389", "and more"))
    special = next(t.content for n, t in source.added_tokens_decoder.items() if t.special and n not in before)
    tokenizer = Tokenizer(source).keeping({special: source.convert_tokens_to_ids(special)})
    ids = [*before, source.convert_tokens_to_ids(special), *after]
    first, mark, second = "".join(parts(tokenizer, [], ids)).partition(special)
    assert (first, mark) == ("".join(parts(tokenizer, [], before)), special)
    assert second.split() == source.decode(after, skip_special_tokens=True).split()
