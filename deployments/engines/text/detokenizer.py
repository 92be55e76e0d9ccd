"""The text of a generation as its tokens arrive, up to a stop string. Knows a tokenizer, not models or requests."""

from collections.abc import Sequence

from deployments.engines.text.tokenizer import Tokenizer


class Detokenizer:
    """Releases whole characters, and nothing that may still become a stop string."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: tuple[str, ...] = ()) -> None:
        self.stopped = False
        """Whether a stop string is complete; it is no part of the text."""
        self.stop = stop
        """Strings that end the text, none of them empty. Text that is released already is not searched for them."""
        self._text = tokenizer.text_after(prompt)
        self._held = ""  # Certain, but perhaps the beginning of a stop string.

    def add(self, token: int) -> str:
        """Takes one token; returns the text that is now certain."""
        text = self._text.add(token)
        if not self.stop:
            return text
        self._held += text
        return self._release(self._text.uncertain())

    def add_all(self, tokens: Sequence[int]) -> str:
        """Takes all tokens of a generation without stop strings; returns its text."""
        return "".join(map(self._text.add, tokens)) + self.end()

    def end(self) -> str:
        """The text that was held back, once no token follows."""
        if self.stopped:
            return ""
        self._held += self._text.end()
        text = self._release()
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _release(self, uncertain: str = "") -> str:
        text = self._held + uncertain
        found = [at for at in (text.find(s) for s in self.stop) if at >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        cut = len(self._held) - max((_overlap(self._held, s) for s in self.stop), default=0)
        text, self._held = self._held[:cut], self._held[cut:]
        return text


def _overlap(text: str, stop: str) -> int:
    """The length of the longest proper beginning of `stop` that ends `text`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
