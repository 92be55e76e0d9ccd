"""From the frames of a CTC model to a text, its words and its segments. Knows a tokenizer, not a model."""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from deployments.contract.speech import SpeechSegment

PAUSE_S = 1.0
"""A segment ends where no word begins for so long."""
_WORD_STARTS = ("▁", "Ġ")


class _Token(NamedTuple):
    number: int
    first: int
    """Frame."""
    end: int


class CtcSpelling:
    """Repeated frames are one token; the blank, which is the padding token, separates two that are the same. Special
    tokens are left out after that: before, two equal letters with a blank between them would become one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._left_out = set(tokenizer.all_special_ids) | {tokenizer.pad_token_id}
        delimiter = getattr(tokenizer, "word_delimiter_token_id", None)
        self._delimiter = delimiter if isinstance(delimiter, int) else None
        self._left_out.discard(self._delimiter)
        grouping = "group_tokens" in inspect.signature(tokenizer._decode).parameters
        self._decoding: dict[str, Any] = {"group_tokens": False} if grouping else {}

    def text(self, frames: Sequence[int] | np.ndarray) -> str:
        """`frames`: the most probable token of each."""
        return self._decoded([token.number for token in self._tokens(frames)])

    def words(self, frames: Sequence[int] | np.ndarray, seconds_a_frame: float) -> list[SpeechSegment]:
        words: list[list[_Token]] = [[]]
        for token in self._tokens(frames):
            if token.number == self._delimiter:
                words.append([])
            elif self._delimiter is None and self._starts_a_word(token.number):
                words.append([token])
            else:
                words[-1].append(token)
        spelled = [
            SpeechSegment(
                start_s=round(word[0].first * seconds_a_frame, 3),
                end_s=round(word[-1].end * seconds_a_frame, 3),
                text=self._decoded([token.number for token in word]),
            )
            for word in words
            if word
        ]
        return [word for word in spelled if word.text]

    def _starts_a_word(self, number: int) -> bool:
        return str(self._tokenizer.convert_ids_to_tokens(number)).startswith(_WORD_STARTS)

    def _decoded(self, numbers: list[int]) -> str:
        return str(self._tokenizer.decode(numbers, skip_special_tokens=False, **self._decoding)).strip()

    def _tokens(self, frames: Sequence[int] | np.ndarray) -> list[_Token]:
        ids = np.asarray(frames)
        if not len(ids):
            return []
        starts = np.flatnonzero(np.diff(ids, prepend=-1))
        ends = np.append(starts[1:], len(ids))
        tokens = (_Token(int(ids[start]), int(start), int(end)) for start, end in zip(starts, ends, strict=True))
        return [token for token in tokens if token.number not in self._left_out]


def segments_of(words: Sequence[SpeechSegment]) -> list[SpeechSegment]:
    """The words between two pauses are a segment."""
    groups: list[list[SpeechSegment]] = []
    for word in words:
        if not groups or word.start_s - groups[-1][-1].end_s >= PAUSE_S:
            groups.append([])
        groups[-1].append(word)
    return [
        SpeechSegment(start_s=group[0].start_s, end_s=group[-1].end_s, text=" ".join(word.text for word in group))
        for group in groups
    ]
