"""Which texts share a forward: those of near lengths, of any requests, each request in its turn. Pure.

A forward computes as many tokens for each text as its longest has. Those beyond a text's own end are wasted.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from deployments.engines.batches import Fitted, Shaped

logger = logging.getLogger(__name__)

MOST_WASTED = 0.1
"""Of the tokens that a forward computes. Less makes more forwards of fewer texts."""


@dataclass(frozen=True, slots=True)
class EncodedText:
    """The tokens of a text, ready for the encoder."""

    ids: Sequence[int]
    type_ids: Sequence[int] = ()
    """Empty where the encoder takes none."""
    left_out: int = 0
    """So many of its first tokens are not pooled."""
    turn: int = 0
    """Of those that wait, the lowest is computed first."""

    @property
    def shape(self) -> None:
        """Texts of any length are padded to one."""


class FittedTokens(Fitted):
    """The tokens that fit into memory in one forward, where more did not."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = 1 << 62

    def most(self, shape: object, batch_size: int) -> int:
        """All: a batch is chosen by its tokens."""
        return batch_size

    def exceeded(self, batch: Sequence[Shaped]) -> None:
        lengths = [len(text.ids) for text in batch if isinstance(text, EncodedText)]
        self.tokens = min(self.tokens, max(lengths) * len(lengths) // 2)
        logger.warning("%d texts do not fit into memory: %d tokens from now on", len(lengths), self.tokens)


class Turns:
    """Gives texts their turns, in tokens: a request of a few does not wait until one of thousands is done."""

    def __init__(self) -> None:
        self._now = 0

    def of(self, texts: Sequence[EncodedText]) -> list[EncodedText]:
        """The texts of one request, in order; the longest has the first turn."""
        turns, turn = [0] * len(texts), self._now
        for index in sorted(range(len(texts)), key=lambda index: -len(texts[index].ids)):
            turns[index] = turn
            turn += len(texts[index].ids)
        return [replace(text, turn=turn) for text, turn in zip(texts, turns, strict=True)]

    def served(self, text: EncodedText) -> None:
        """The text whose turn it was is being computed."""
        self._now = max(self._now, text.turn)


def batch_of(waiting: Sequence[EncodedText], most_texts: int, most_tokens: int, equal: bool = False) -> list[int]:
    """The indices of the texts for the next forward, the one whose turn it is first.

    The others are those nearest to it in length, as long as the forward wastes at most MOST_WASTED. `equal`: only texts
    of one length.
    """
    order = sorted(range(len(waiting)), key=lambda index: len(waiting[index].ids))
    lengths = [len(waiting[index].ids) for index in order]
    until = [0, *accumulate(lengths)]
    first = min(range(len(waiting)), key=lambda index: waiting[index].turn)
    low = order.index(first)
    high = low + 1

    def wasted(low: int, high: int) -> int:
        return lengths[high - 1] * (high - low) - until[high] + until[low]

    def fits(low: int, high: int) -> bool:
        if low < 0 or high > len(order):
            return False
        computed = lengths[high - 1] * (high - low)
        return computed <= most_tokens and wasted(low, high) <= (0 if equal else MOST_WASTED * computed)

    while high - low < most_texts:
        wider = [span for span in ((low, high + 1), (low - 1, high)) if fits(*span)]
        if not wider:
            break
        low, high = min(wider, key=lambda span: wasted(*span))
    return [first, *(index for index in order[low:high] if index != first)]
