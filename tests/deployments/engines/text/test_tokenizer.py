"""Text becomes tokens and text again, and each token is spelled in bytes."""

from contextlib import nullcontext

import pytest

from deployments.contract.errors import InvalidRequest, ModelLoadFailed
from deployments.engines.text.tokenizer import _FILL_IN_TOKENS, Tokenizer
from tests.deployments.engines.text.spelling.tokenizers import TEXT, llama_tokenizer
from tests.support.text_models import PROMPTS, SPECIAL, VOCABULARY, byte_level_tokenizer


@pytest.fixture(params=[byte_level_tokenizer, llama_tokenizer], scope="module")
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer(request.param())


def test_text_survives_the_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_the_bytes_of_tokens_add_up_to_the_text(tokenizer: Tokenizer) -> None:
    ids = [token for token in tokenizer.encode(TEXT) if tokenizer.decode([token]) or token > 2]
    assert b"".join(map(tokenizer.token_bytes, ids)).strip() == TEXT.encode()


def test_a_token_beyond_the_tokenizer_has_no_bytes(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_bytes(10**6) == b""


def test_special_tokens_are_spelled_and_text_that_spells_them_stays_text() -> None:
    tokenizer = Tokenizer(byte_level_tokenizer())
    assert [tokenizer.token_bytes(token).decode() for token in range(len(SPECIAL))] == SPECIAL
    assert not {1, 2} & set(tokenizer.encode("</s><|endoftext|>"))


def test_control_tokens_are_tokens_where_that_is_asked_for() -> None:
    tokenizer = Tokenizer(byte_level_tokenizer())
    assert tokenizer.encode("</s>a<|endoftext|>", control_tokens=True)[1:] == [1, *tokenizer.encode("a")[1:], 2]


@pytest.mark.parametrize("tokens", _FILL_IN_TOKENS)
def test_a_text_between_two_is_asked_for_with_the_tokenizers_own_tokens(tokens: tuple[str, str, str]) -> None:
    source = byte_level_tokenizer()
    with pytest.raises(InvalidRequest, match="has no fill-in-the-middle tokens"):
        Tokenizer(source).encode_between("a", "b")
    source.add_special_tokens({"additional_special_tokens": list(tokens)})
    tokenizer = Tokenizer(source)
    first, middle, last = tokens
    whole = source.encode(f"{first}def f({middle}):{last}")
    assert tokenizer.encode_between("def f(", "):") == whole
    assert tokenizer.encode(f"{first}def f({middle}):{last}", control_tokens=True) == whole
    forged = tokenizer.encode_between("</s>", first)
    assert 1 not in forged
    assert forged.count(whole[1]) == 1
    assert 1 in tokenizer.encode_between("</s>", first, control_tokens=True)


def test_an_empty_prompt_starts_with_bos_else_eos_else_the_first_token() -> None:
    source = byte_level_tokenizer()
    assert Tokenizer(source).start_token(VOCABULARY) == 0
    source.bos_token = None
    assert Tokenizer(source).start_token(VOCABULARY) == 1
    assert Tokenizer(source).start_token(1) == 0


def test_byte_level_tokenizer_knows_every_prompt() -> None:
    tokenizer = byte_level_tokenizer()
    assert all(tokenizer.decode(tokenizer(prompt).input_ids, skip_special_tokens=True) == prompt for prompt in PROMPTS)


@pytest.mark.parametrize(
    ("vocabulary", "fits"), [(VOCABULARY, True), (VOCABULARY + 64, True), (5000, False), (7, False)]
)
def test_a_tokenizer_of_another_model_does_not_fit(vocabulary: int, fits: bool) -> None:
    tokenizer = Tokenizer(byte_level_tokenizer())
    with nullcontext() if fits else pytest.raises(ModelLoadFailed, match=f"has 320 tokens, the model {vocabulary}"):
        tokenizer.check(vocabulary)
