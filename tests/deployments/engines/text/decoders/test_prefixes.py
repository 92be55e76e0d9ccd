"""Prompts share what they begin with, and long ones come in pieces: nobody's text changes by it."""

import torch

from deployments.engines.text.decoders.prefixes import BLOCK, Prefixes


def block_of(tokens: list[int]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """One layer whose keys are the tokens themselves."""
    keys = torch.tensor(tokens, dtype=torch.float32)[None, :, None]
    return [keys], [-keys]


def test_blocks_stay_within_their_bytes_and_the_least_recently_used_are_dropped_first() -> None:
    size = BLOCK * 4 * 2
    prefixes = Prefixes(4 * size)
    texts = [[number] * (2 * BLOCK) + [number] for number in range(4)]
    for text in texts:
        prefixes.keep(text, *block_of(text))
        assert prefixes.nbytes <= 4 * size
    assert [len(prefixes.find(text)) for text in texts] == [0, 0, 2, 2]
    prefixes.find(texts[2])
    prefixes.keep(texts[0], *block_of(texts[0]))
    assert [len(prefixes.find(text)) for text in texts] == [2, 0, 2, 0]
    assert len(prefixes.find(texts[2][: 2 * BLOCK])) == 1, "the last token is always left to compute"
    assert torch.equal(prefixes.find(texts[2])[1].keys[0].flatten(), torch.full((BLOCK,), 2.0))


def test_a_prompt_larger_than_the_cache_is_not_kept() -> None:
    prefixes = Prefixes(3 * BLOCK * 4 * 2)
    text = [1] * (4 * BLOCK)
    prefixes.keep(text, *block_of(text))
    assert prefixes.nbytes == 0
