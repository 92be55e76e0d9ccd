"""Prompt lookup: a text whose last tokens stood in it before may go on as it did there."""

from collections.abc import Sequence
from typing import Protocol

NGRAM = 3
"""Tokens that have to be the same. With fewer more is proposed, and less of it is right."""
FIRST, LONGEST = 2, 16
"""Tokens of a text's first proposal, and of the longest one."""
SHORTEST_PAUSE, LONGEST_PAUSE = 4, 64
"""Tokens."""


class Text(Protocol):
    """What is proposed for: one running request."""

    @property
    def tokens(self) -> list[int]: ...

    @property
    def draft_limit(self) -> int:
        """The most tokens that may be proposed now; 0 where the choice takes more than the best token."""


class PromptLookup:
    """Of all texts of one decoder."""

    def __init__(self) -> None:
        self._texts: dict[Text, RepeatedText] = {}

    def propose(self, texts: Sequence[Text], budget: int) -> list[list[int]] | None:
        """For each text what may follow it, `budget` tokens in all; None if there is nothing for any."""
        each = min(LONGEST, budget // len(texts))
        if not each:
            return None
        self._texts = {text: self._texts.get(text) or RepeatedText() for text in texts if text.draft_limit}
        drafts = [
            known.propose(text.tokens, min(each, text.draft_limit)) if (known := self._texts.get(text)) else []
            for text in texts
        ]
        return drafts if any(drafts) else None


class RepeatedText:
    """One text. It learns from how the text went on what to propose next.

    Proposals become longer where all of one was right, and shorter where only its beginning was. After one of which
    nothing was right a pause follows, each time four times as long.
    """

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}  # Of each n-gram that something follows, where it last ended.
        self._length = 0  # Of the text, at the last call.
        self._next = FIRST  # Tokens to propose.
        self._proposed = 0
        self._pause = SHORTEST_PAUSE
        self._resumes_at = 0

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens that may follow `tokens`, the same text as in the last call and what came since."""
        for end in range(max(NGRAM, self._length), len(tokens)):
            self._ends[tuple(tokens[end - NGRAM : end])] = end
        self._learn(len(tokens))
        self._length, self._proposed = len(tokens), 0
        begin = self._ends.get(tuple(tokens[-NGRAM:]))
        if begin is None or len(tokens) < self._resumes_at:
            return []
        self._proposed = min(most, self._next)
        period = len(tokens) - begin
        return [tokens[begin + n % period] for n in range(self._proposed)]

    def _learn(self, length: int) -> None:
        if not self._proposed:
            return
        accepted = length - self._length - 1
        if accepted == self._proposed:
            self._next = min(2 * self._next, LONGEST)
        else:
            self._next = max(FIRST, accepted)
        if accepted:
            self._pause = SHORTEST_PAUSE
        else:
            self._resumes_at = length + self._pause
            self._pause = min(4 * self._pause, LONGEST_PAUSE)
