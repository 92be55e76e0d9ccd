"""What proposers of tokens share: their interface, and how many tokens they propose to a text."""

from collections.abc import Sequence
from typing import Protocol

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


class Proposer(Protocol):
    """Of all texts of one decoder."""

    @property
    def note(self) -> str:
        """For the status page."""

    @property
    def weight_bytes(self) -> int: ...

    @property
    def nbytes(self) -> int:
        """Of its KV cache."""

    def propose(self, texts: Sequence[Text], budget: int) -> list[list[int]] | None:
        """For each text what may follow it, `budget` tokens in all; None if there is nothing for any.

        `texts`: all that run, once between two steps.
        """

    def rest(self) -> None:
        """No text runs."""

    def close(self) -> None:
        """Give its memory back."""


class NoProposer:
    """In the place of one that was asked for and cannot be."""

    weight_bytes = nbytes = 0

    def __init__(self, note: str) -> None:
        self.note = note

    def propose(self, texts: Sequence[Text], budget: int) -> list[list[int]] | None:
        return None

    def rest(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is held."""


class Pace:
    """How many tokens to propose to one text.

    Proposals become longer where all of one was right, and shorter where only its beginning was. After one of which
    nothing was right a pause follows, each time four times as long.
    """

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._length = 0  # Of the text, at the last call.
        self._next = FIRST  # Tokens to propose.
        self._pause = SHORTEST_PAUSE
        self._resumes_at = 0
        self.proposed = 0
        """To be set to the tokens that were proposed."""

    def most(self, length: int) -> int:
        """Tokens to propose to the text, which has `length` now; 0 in a pause. One call for each step."""
        self._learn(length)
        self._length, self.proposed = length, 0
        return self._next if length >= self._resumes_at else 0

    def _learn(self, length: int) -> None:
        if not self.proposed:
            return
        accepted = length - self._length - 1
        self._next = min(2 * self._next, self._longest) if accepted == self.proposed else max(FIRST, accepted)
        if accepted:
            self._pause = SHORTEST_PAUSE
        else:
            self._resumes_at = length + self._pause
            self._pause = min(4 * self._pause, LONGEST_PAUSE)
