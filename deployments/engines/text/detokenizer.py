"""The text of a generation as its tokens arrive. Knows a tokenizer and stop strings, not models or requests."""

from collections.abc import Sequence

from deployments.engines.text.tokenizer import Tokenizer

# Tokens before the new ones that may change how these are spelled: a leading space, a joined accent.
_CONTEXT_TOKENS = 6
# Tokens without a whole character at their end, until bytes that are no character are released as they are. Without a
# bound, a model that writes only such bytes has all of them decoded again for every token.
_MAX_UNDECODED = 32


class Detokenizer:
    """Releases whole characters, and nothing that may still become a stop string."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: tuple[str, ...] = ()) -> None:
        self.stopped = False
        """Whether a stop string is complete; it is no part of the text."""
        self.stop = stop
        """Strings that end the text, none of them empty. Text that is released already is not searched for them."""
        self._tokenizer = tokenizer
        self._window = list(prompt[-_CONTEXT_TOKENS:])
        self._prefix_text = tokenizer.decode(self._window)  # What the window's released tokens spell.
        self._released = len(self._window)  # Tokens of the window.
        self._held = ""  # Decoded, but perhaps the beginning of a stop string.

    def add(self, token: int) -> str:
        """Takes one token; returns the text that is now certain."""
        self._window.append(token)
        text = self._tokenizer.decode(self._window)
        # A replacement character at the end may be the beginning of a longer character.
        if len(text) <= len(self._prefix_text) or (text.endswith("\ufffd") and not self._is_overdue(text)):
            return ""
        self._held += text[len(self._prefix_text) :]
        self._window = self._window[self._released :]
        self._released = len(self._window)
        self._prefix_text = self._tokenizer.decode(self._window)
        return self._release()

    def _is_overdue(self, text: str) -> bool:
        """Whether bytes that are no characters have piled up, and none of them can be the beginning of one."""
        undecoded = len(self._window) - self._released
        if undecoded < _MAX_UNDECODED:
            return False
        return text.endswith("\ufffd\ufffd") or undecoded >= 2 * _MAX_UNDECODED

    def add_all(self, tokens: Sequence[int]) -> str:
        """Takes all tokens of a generation without stop strings; returns its text."""
        self._window += tokens
        return self.end()

    def end(self) -> str:
        """The text that was held back, once no token follows."""
        if self.stopped:
            return ""
        self._held += self._tokenizer.decode(self._window)[len(self._prefix_text) :]
        text = self._release()
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _release(self) -> str:
        found = [at for at in (self._held.find(s) for s in self.stop) if at >= 0]
        if found:
            self.stopped = True
            text, self._held = self._held[: min(found)], ""
            return text
        cut = len(self._held) - max((_overlap(self._held, s) for s in self.stop), default=0)
        text, self._held = self._held[:cut], self._held[cut:]
        return text


def _overlap(text: str, stop: str) -> int:
    """The length of the longest proper beginning of `stop` that ends `text`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
