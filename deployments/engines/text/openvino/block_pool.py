"""Which block of the KV cache holds which tokens. Knows numbers, not memory.

A block belongs to every row whose text begins alike up to its end. Once no row has it, it is kept for later prompts;
the least recently used go first.
"""

import hashlib
import heapq
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from deployments.contract.errors import OutOfMemory
from deployments.engines.text.openvino.paging import BLOCK


class Part(NamedTuple):
    """The tokens of one row that a call computes, after `known` earlier ones; `table`: its blocks, for all of them."""

    tokens: Sequence[int]
    known: int
    table: Sequence[int]


class BlockPool:
    """At most `blocks` in use and kept together, at most `kept` of them without a row."""

    def __init__(self, blocks: int, kept: int) -> None:
        self._free = list(range(blocks))  # A heap: low numbers are used first, so that memory stays together.
        self._max_kept = kept
        self._rows: Counter[int] = Counter()  # How many rows have a block.
        self._kept: OrderedDict[int, None] = OrderedDict()  # The blocks without a row, in the order of their use.
        self._by_name: dict[bytes, int] = {}
        self._names: dict[int, bytes] = {}

        self.touched = 0
        """One more than the highest number that was taken since it was last set."""

    @property
    def used(self) -> int:
        """One more than the highest number of a block that holds something."""
        return 1 + max((*self._rows, *self._kept), default=-1)

    def find(self, tokens: Sequence[int]) -> list[int]:
        """Takes the blocks that `tokens` begin with; never all of them, since the last token has to be computed."""
        found = []
        for name in _names(tokens[:-1]):
            if (block := self._by_name.get(name)) is None:
                break
            found.append(block)
        self.share(found)
        return found

    def share(self, blocks: Iterable[int]) -> None:
        """One more row has these blocks."""
        for block in blocks:
            self._rows[block] += 1
            self._kept.pop(block, None)

    def take(self) -> int:
        """A block for new tokens. Raises OutOfMemory where every block has a row."""
        if not self._free and not self._kept:
            raise OutOfMemory("the KV cache is full")
        if not self._free:
            self._drop_oldest()
        block = heapq.heappop(self._free)
        self._rows[block] = 1
        self.touched = max(self.touched, block + 1)
        return block

    def name(self, tokens: Sequence[int], blocks: Sequence[int]) -> None:
        """The blocks hold these tokens: later prompts that begin alike may share the whole ones."""
        for name, block in zip(_names(tokens), blocks, strict=False):
            if name not in self._by_name and block not in self._names:
                self._by_name[name] = block
                self._names[block] = name

    def forget(self, blocks: Iterable[int]) -> None:
        """No later prompt shares these blocks."""
        for block in blocks:
            if name := self._names.pop(block, None):
                del self._by_name[name]

    def release(self, blocks: Sequence[int]) -> None:
        """One row less has these blocks."""
        for block in reversed(blocks):  # So that a block goes before those that it follows.
            self._rows[block] -= 1
            if self._rows[block]:
                continue
            del self._rows[block]
            if block in self._names:
                self._kept[block] = None
            else:
                heapq.heappush(self._free, block)
        while len(self._kept) > self._max_kept:
            self._drop_oldest()

    def drop_kept(self) -> None:
        while self._kept:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        block, _ = self._kept.popitem(last=False)
        self.forget([block])
        heapq.heappush(self._free, block)


def _names(tokens: Sequence[int]) -> Iterator[bytes]:
    """A name for each whole block, by all tokens up to its end."""
    name = b""
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        name = hashlib.sha256(name + array("q", tokens[end - BLOCK : end]).tobytes()).digest()
        yield name
