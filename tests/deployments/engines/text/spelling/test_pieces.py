"""Which decoders are known token by token, and what a token adds."""

import pytest
from tokenizers import decoders

from deployments.engines.text.spelling.pieces import Pieces
from tests.deployments.engines.text.spelling.tokenizers import KINDS, tokenizer_of

NEIGHBOURS_MATTER = {"BPE with word ends", "replacement across tokens", "CTC"}


@pytest.mark.parametrize("kind", sorted(kind for kind in KINDS if "Python" not in kind))
def test_decoders_whose_tokens_add_the_same_anywhere_are_known(kind: str) -> None:
    assert (Pieces.of(tokenizer_of(kind).backend_tokenizer) is None) == (kind in NEIGHBOURS_MATTER)


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)]),
        decoders.Sequence([decoders.ByteFallback(), decoders.Strip(" ", 1, 0)]),
        decoders.Sequence([decoders.ByteLevel(), decoders.Replace("a", "b")]),
    ],
)
def test_decoders_that_look_at_neighbours_are_left_to_the_library(decoder: decoders.Decoder) -> None:
    backend = tokenizer_of("byte fallback (Gemma)").backend_tokenizer
    before, backend.decoder = backend.decoder, decoder
    try:
        assert Pieces.of(backend) is None
    finally:
        backend.decoder = before


def test_a_piece_is_text_or_the_byte_that_a_token_stands_for() -> None:
    source = tokenizer_of("byte fallback (Llama 2)")
    pieces = Pieces.of(source.backend_tokenizer)
    assert pieces is not None
    named = {token: pieces[source.convert_tokens_to_ids(token)] for token in ("▁a", "<0xE7>", "<s>", "<tool>")}
    assert named == {"▁a": " a", "<0xE7>": b"\xe7", "<s>": None, "<tool>": "<tool>"}
    assert pieces[10**6] is None


def test_an_added_token_of_a_byte_level_tokenizer_is_its_text() -> None:
    source = tokenizer_of("byte level")
    pieces = Pieces.of(source.backend_tokenizer)
    assert pieces is not None
    assert pieces[source.convert_tokens_to_ids("<added é 日>")] == "<added é 日>".encode()
