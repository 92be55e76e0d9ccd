"""The interface of decoders. A decoder has one row for each running request, numbered from 0 without a gap."""

from collections.abc import Generator, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class StepOutput(NamedTuple):
    """Logits float [rows, vocabulary], the best token of each row, and whether the row is free of NaN and infinity."""

    logits: Tensor
    best: list[int]
    finite: list[bool]

    def of(self, rows: Sequence[int]) -> "StepOutput":
        """These rows only."""
        if len(rows) == len(self.best):
            return self
        return StepOutput(self.logits[list(rows)], [self.best[n] for n in rows], [self.finite[n] for n in rows])


class Verified(NamedTuple):
    """The logits after each token that was appended, row by row, and how many tokens each row got."""

    output: StepOutput
    counts: list[int]


ChunkedPrefill = Generator[StepOutput | None, Sequence[int] | None, None]
"""A prompt: each `next` computes one chunk. With the last one the prompt gets the next row, and only that gives the
logits that follow. Where those of the prompt are wanted, each gives the logits after every token of its chunk.
`send` computes a token for each row with the chunk, as `prefill` does; the logits that follow them come first."""

SCORED = 128
"""Tokens of a prompt whose logits are wanted at a time: of large vocabularies they take much memory."""


class Cache(Protocol):
    """The keys and values of rows."""

    @property
    def nbytes(self) -> int:
        """Bytes held for rows, and by the prefix cache."""

    @property
    def use(self) -> float:
        """The share of the rows' bytes that holds tokens, from 0 to 1."""

    @property
    def shared_tokens(self) -> int:
        """Prompt tokens so far that the prefix cache spared."""


class Decoder(Cache, Protocol):
    @property
    def rows(self) -> int: ...

    @property
    def chunk_size(self) -> int | None:
        """A prompt of more tokens goes through `begin_chunked`; None where every prompt is computed at once."""

    @property
    def prefill_budget(self) -> int:
        """Tokens of the prompts that are computed in one forward. A single prompt may have more."""

    @property
    def joins_rows(self) -> bool:
        """Whether a forward of prompts may append a token to each row too."""

    @property
    def draft_budget(self) -> int:
        """Proposed tokens that one `verify` takes, of all rows; 0 where the decoder cannot take tokens back."""

    def prefill(self, prompts: Sequence[Sequence[int]], tokens: Sequence[int] = ()) -> StepOutput:
        """Add a row for each prompt, after the present ones; the logits that follow each prompt.

        `tokens`: one for each present row, appended in the same forward; the logits that follow them come first.
        """

    def begin_chunked(self, prompt: Sequence[int], each: bool = False) -> ChunkedPrefill:
        """Begin a long prompt, or with `each` one whose own logits are wanted; computes nothing yet. Rows may step,
        join and end until it has its own."""

    def step(self, tokens: Sequence[int]) -> StepOutput:
        """Append one token to each row; the logits that follow."""

    def verify(self, rows: Sequence[Sequence[int]]) -> Verified:
        """Append to each row its next token, and the tokens proposed after it up to the first that is not the best."""

    def release(self, row: int, broken: bool = False) -> None:
        """Give a row up; the last row takes its number. `broken`: it may hold NaN."""

    def clear(self) -> None:
        """Give up all rows and their memory."""

    def close(self) -> None:
        """Give up all rows and the model. What it holds may still be read, nothing else called."""


def step_output(logits: Tensor) -> StepOutput:
    logits = logits.float()
    value, best = logits.max(-1)  # NaN counts as the maximum, so one check sees every bad row.
    return StepOutput(logits, best.tolist(), value.isfinite().tolist())
