"""Prompt lookup: a text whose last tokens stood in it before may go on as it did there."""

from collections.abc import Sequence

from deployments.engines.text.speculation.proposer import LONGEST, Pace, Text

NGRAM = 3
"""Tokens that have to be the same. With fewer more is proposed, and less of it is right."""


class PromptLookup:
    """Of all texts of one decoder."""

    weight_bytes = nbytes = 0
    note = "prompt lookup"

    def __init__(self) -> None:
        self._texts: dict[Text, RepeatedText] = {}

    def propose(self, texts: Sequence[Text], budget: int) -> list[list[int]] | None:
        each = min(LONGEST, budget // len(texts))
        if not each:
            return None
        self._texts = {text: self._texts.get(text) or RepeatedText() for text in texts if text.draft_limit}
        drafts = [
            known.propose(text.tokens, min(each, text.draft_limit)) if (known := self._texts.get(text)) else []
            for text in texts
        ]
        return drafts if any(drafts) else None

    def rest(self) -> None:
        self._texts = {}

    def close(self) -> None:
        self.rest()


class RepeatedText:
    """One text. It learns from how the text went on what to propose next."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}  # Of each n-gram that something follows, where it last ended.
        self._length = 0  # Of the text, at the last call.
        self._pace = Pace()

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens that may follow `tokens`, the same text as in the last call and what came since."""
        for end in range(max(NGRAM, self._length), len(tokens)):
            self._ends[tuple(tokens[end - NGRAM : end])] = end
        self._length = len(tokens)
        most = min(most, self._pace.most(self._length))
        begin = self._ends.get(tuple(tokens[-NGRAM:]))
        if begin is None:
            return []
        self._pace.proposed = most
        period = self._length - begin
        return [tokens[begin + n % period] for n in range(most)]
