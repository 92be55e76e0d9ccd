"""Rounded weights take a quarter of the memory and change the logits little."""

from pathlib import Path

import torch

from tests.support.text_models import (
    PROMPTS,
    ask,
    load,
)


def test_int8_weights_take_less_memory_and_lose_little(folder: Path) -> None:
    whole, rounded = load(folder), load(folder, dtype="int8")
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        expected, given = (engine._loaded.model(ids).logits for engine in (whole, rounded))  # type: ignore[union-attr]
    assert rounded.resident_bytes < 0.7 * whole.resident_bytes, "the embedding stays as it was"
    assert (given - expected).abs().max() < 0.05 * expected.abs().max()
    assert ask(rounded, PROMPTS[0], 8).finished().completion_tokens == 8
    whole.close()
    rounded.close()
