"""What a decoder is: one row for each running request, numbered from 0 without a gap."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class Step(NamedTuple):
    """Logits float [rows, vocabulary], the best token of each row, and whether the row is free of NaN and infinity."""

    logits: Tensor
    best: list[int]
    finite: list[bool]

    def of(self, rows: Sequence[int]) -> "Step":
        """These rows only."""
        if len(rows) == len(self.best):
            return self
        return Step(self.logits[list(rows)], [self.best[n] for n in rows], [self.finite[n] for n in rows])


class Entering(Protocol):
    """A long prompt on its way to a row, a piece at a time."""

    def advance(self) -> Step | None:
        """Compute one piece; with the last one the prompt gets the next row, and this is the step that follows it."""


class Cache(Protocol):
    """The keys and values of rows."""

    @property
    def nbytes(self) -> int:
        """Bytes held for rows, and for prompts that may come again."""

    @property
    def use(self) -> float:
        """The share of the rows' bytes that holds tokens, from 0 to 1."""

    @property
    def shared_tokens(self) -> int:
        """Prompt tokens so far that were not computed, since an earlier prompt began with the same."""


class Decoder(Cache, Protocol):
    @property
    def rows(self) -> int: ...

    @property
    def piece(self) -> int | None:
        """A prompt of more tokens goes through `enter`; None where every prompt is computed at once."""

    @property
    def together(self) -> int:
        """Prompts are computed together up to so many tokens; each alone where that is as quick."""

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Step:
        """Add a row for each prompt, after the present ones; the logits that follow each prompt."""

    def enter(self, prompt: Sequence[int]) -> Entering:
        """Begin a long prompt. Rows may step, join and leave until it has its own."""

    def step(self, tokens: Sequence[int]) -> Step:
        """Append one token to each row; the logits that follow."""

    def release(self, row: int, broken: bool = False) -> None:
        """Give a row up; the last row takes its number. `broken`: it may hold NaN."""

    def clear(self) -> None:
        """Give up all rows and their memory."""

    def close(self) -> None:
        """Give up everything. Nothing may be called after it."""


def finish(logits: Tensor) -> Step:
    logits = logits.float()
    value, best = logits.max(-1)  # NaN counts as the maximum, so one check sees every bad row.
    return Step(logits, best.tolist(), value.isfinite().tolist())
