"""The prefix cache: keys and values of the beginnings of prompts, for later prompts that begin alike.

Blocks of 64 tokens. A block is named by all tokens up to its end, so a chain of names is a prefix. The least recently
used blocks are dropped first once the cache is full.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

BLOCK = 64


@dataclass(frozen=True, slots=True)
class PrefixKV:
    """Keys and values [heads, tokens, dim] of each layer for a part of a prompt; no layers for no tokens."""

    keys: Sequence[Tensor]
    values: Sequence[Tensor]

    @property
    def tokens(self) -> int:
        return self.keys[0].shape[1] if self.keys else 0

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))


class Prefixes:
    """Blocks by name, within `most_bytes`."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.nbytes = 0
        self._blocks: OrderedDict[bytes, PrefixKV] = OrderedDict()

    def find(self, tokens: Sequence[int]) -> list[PrefixKV]:
        """The blocks that `tokens` begin with; never all of them, since the last token has to be computed."""
        names = []
        for name in _names(tokens[:-1]):
            if name not in self._blocks:
                break
            names.append(name)
        for name in reversed(names):  # So that a block goes before those that it follows.
            self._blocks.move_to_end(name)
        return [self._blocks[name] for name in names]

    def keep(self, tokens: Sequence[int], keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Copy the blocks of a computed prompt that are new. For each layer [heads, tokens or more, dim]."""
        names = list(_names(tokens))
        for number, name in reversed(list(enumerate(names))):
            if name in self._blocks:
                self._blocks.move_to_end(name)
                continue
            columns = slice(number * BLOCK, (number + 1) * BLOCK)
            block = PrefixKV(*([layer[:, columns].clone() for layer in kind] for kind in (keys, values)))
            if block.nbytes * len(names) > self.most_bytes:
                return
            self._blocks[name] = block
            self.nbytes += block.nbytes
        while self.nbytes > self.most_bytes:
            self.nbytes -= self._blocks.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        self._blocks.clear()
        self.nbytes = 0


def _names(tokens: Sequence[int]) -> Iterator[bytes]:
    """The names of the whole blocks of `tokens`."""
    name = b""
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        name = hashlib.sha256(name + array("q", tokens[end - BLOCK : end]).tobytes()).digest()
        yield name
