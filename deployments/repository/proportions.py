"""Whether config.json asks for a model as large as its weights. A library builds a larger one before it compares them,
which may take all memory, or hours."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from deployments.repository.manifest import Unservable

LAYERS, WIDTH, WORDS = 1024, 4096, 2**20
"""As many are always allowed: config.json may describe parts that nothing builds."""
WIDTH_OF_PARTS = 2**16
_LAYERS = re.compile(r"(num_)?(hidden_|(en|de)coder_)?layers|n_layers?|depths?")
_WIDTH = re.compile(r"(hidden|intermediate)_sizes?|hidden_dim|d_model|d_ff|n_embd|n_inner|dim|((en|de)coder_)?ffn_dim")


class Extent(NamedTuple):
    """Of all weights of a model."""

    tensors: int
    largest_side: int

    def joined(self, other: "Extent") -> "Extent":
        return Extent(self.tensors + other.tensors, max(self.largest_side, other.largest_side))


def check_proportions(config: Mapping[str, object], weights: Extent, width: int = WIDTH) -> None:
    """Raises Unservable where config.json asks for more layers than there are tensors, or for larger ones."""
    no_larger = f"no tensor has a side above {weights.largest_side}"
    for key, value in config.items():
        if _LAYERS.fullmatch(key):
            _refuse_above(key, value, max(LAYERS, weights.tensors), f"its weights have {weights.tensors} tensors")
        elif _WIDTH.fullmatch(key):
            _refuse_above(key, value, max(width, weights.largest_side), no_larger)
        elif key == "vocab_size":
            _refuse_above(key, value, max(WORDS, weights.largest_side), no_larger)
        elif isinstance(value, dict):
            check_proportions(value, weights, WIDTH_OF_PARTS)


def _refuse_above(key: str, value: object, limit: int, but: str) -> None:
    values = value if isinstance(value, list) else [value]
    if any(isinstance(one, int | float) and one > limit for one in values):
        raise Unservable(f"config.json asks for {key} beyond its weights: {but}")
