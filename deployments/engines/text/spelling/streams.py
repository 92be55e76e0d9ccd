"""The text of a generation, token by token: joined, the parts are the library's decoding of all tokens at once.

Where bytes are tokens (`PieceStream`), a character that the text's end cuts is missing; the library would give U+FFFD
for every byte of its run. Knows neither requests nor stop strings.
"""

import codecs
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from deployments.engines.text.spelling.pieces import Pieces

REPLACEMENT = "\ufffd"
Decode = Callable[[Sequence[int]], str]
_NO_MARKS: Mapping[int, str] = MappingProxyType({})

# Bytes of a run that are held until it ends, since the library judges a run as a whole. A longer one is given as it
# comes: it is most likely text of a script that the vocabulary does not have.
MOST_HELD = 32
# Tokens before the new ones that may change how they are spelled.
_CONTEXT_TOKENS = 6
# The end of a text that the library's `clean_up_tokenization` may change with the next token.
_BEFORE_CLEAN_UP = re.compile(r"[ '][^ ]{0,2}$")


class TextStream(Protocol):
    def add(self, token: int) -> str:
        """Takes one token; returns the text that is now certain."""

    def uncertain(self) -> str:
        """The characters that are whole, but may become others with the next token."""

    def end(self) -> str:
        """The rest, once no token follows."""


def text_stream(
    pieces: Pieces | None, decode: Decode, cleans_up: bool, prompt: Sequence[int], marks: Mapping[int, str] = _NO_MARKS
) -> TextStream:
    """The stream of what follows `prompt`. `marks`: special tokens that are text; `decode` has them as well."""
    if pieces is None or cleans_up:
        return DecodedStream(decode, prompt, cleans_up)
    stream = ByteLevelStream(pieces, prompt) if pieces.byte_level else PieceStream(pieces, prompt)
    return MarkedStream(stream, marks) if marks else stream


class MarkedStream:
    """A stream of pieces with some special tokens. What is before one is certain when it comes."""

    def __init__(self, stream: "ByteLevelStream | PieceStream", marks: Mapping[int, str]) -> None:
        self._stream = stream
        self._marks = marks
        self.uncertain, self.end = stream.uncertain, stream.end

    def add(self, token: int) -> str:
        mark = self._marks.get(token)
        return self._stream.add(token) if mark is None else self._stream.end() + mark


class ByteLevelStream:
    """All tokens are bytes. What is no UTF-8 becomes U+FFFD, a cut character at the end too."""

    def __init__(self, pieces: Pieces, prompt: Sequence[int]) -> None:
        self._pieces: Any = pieces  # Bytes only.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder.decode(self._last_bytes(prompt))
        # What the prompt's last bytes are if no others complete their character: part of its text already.
        self._begun = self._decoder.getstate()[0].decode("utf-8", "replace")

    def add(self, token: int) -> str:
        text = self._decoder.decode(self._pieces[token] or b"")
        return self._without_begun(text) if self._begun and text else text

    def uncertain(self) -> str:
        return ""

    def end(self) -> str:
        text = self._decoder.decode(b"", final=True)
        return self._without_begun(text) if self._begun else text

    def _without_begun(self, text: str) -> str:
        begun, self._begun = self._begun, ""
        return text.removeprefix(begun)

    def _last_bytes(self, prompt: Sequence[int]) -> bytes:
        """Enough to know whether a character is cut."""
        last = b""
        for token in reversed(prompt):
            last = (self._pieces[token] or b"") + last
            if len(last) >= 4:
                break
        return last


class PieceStream:
    """Tokens are text, and bytes where the vocabulary has no piece; a run of bytes that is no UTF-8 is all U+FFFD."""

    def __init__(self, pieces: Pieces, prompt: Sequence[int]) -> None:
        self._pieces = pieces
        self._first, self._strip = pieces.first_differs, pieces.strip
        self._run = b""
        self._of_prompt = 0  # Bytes of the run.
        self._flows = False  # Whether the run became longer than is held. `_run` has what is not decoded yet.
        for token in prompt:
            if not self._first and not self._strip:
                break
            self.add(token)
        self._run, self._flows = b"".join(self._last_run(prompt)), False
        self._of_prompt = len(self._run)

    def add(self, token: int) -> str:
        piece = self._pieces[token]
        if piece is None:
            return ""
        if isinstance(piece, bytes):
            self._first = False
            self._run += piece
            return self._let_flow() if self._flows or len(self._run) > MOST_HELD else ""
        text = self._end_run(cut=False) if self._run else ""
        self._flows = False
        if self._first:
            self._first, piece = False, self._pieces.first(token)
        return text + self._stripped(piece) if self._strip else text + piece

    def uncertain(self) -> str:
        if self._flows or not self._run:
            return ""
        text, of_prompt, _ = self._judged(cut=True)
        return text[of_prompt:]

    def end(self) -> str:
        return self._end_run(cut=True) if self._run else ""

    def _last_run(self, prompt: Sequence[int]) -> list[bytes]:
        """The bytes that end the prompt."""
        run: list[bytes] = []
        for token in reversed(prompt):
            if isinstance(piece := self._pieces[token], str):
                break
            run.append(piece or b"")
        return run[::-1]

    def _end_run(self, cut: bool) -> str:
        if self._flows:
            text = "" if cut else REPLACEMENT * len(self._run)
        else:
            text, of_prompt, _ = self._judged(cut)
            if self._strip:
                self._stripped(text[:of_prompt])
            text = text[of_prompt:]
        self._run, self._of_prompt = b"", 0
        return self._stripped(text) if self._strip else text

    def _judged(self, cut: bool) -> tuple[str, int, bytes]:
        """The text of the run, how many characters of it are the prompt's, and the bytes of a `cut` character."""
        try:
            text, used = codecs.utf_8_decode(self._run, "strict", not cut)
        except UnicodeDecodeError:
            return REPLACEMENT * len(self._run), self._of_prompt, b""
        of_prompt, _ = codecs.utf_8_decode(self._run[: self._of_prompt], "strict", False)
        return text, len(of_prompt), self._run[used:]

    def _let_flow(self) -> str:
        """What is decoded of a run that is not held any more."""
        if self._flows:
            text, self._run = _decoded(self._run)
            return text
        text, of_prompt, self._run = self._judged(cut=True)
        self._flows, self._strip, self._of_prompt = True, "", 0
        return text[of_prompt:]

    def _stripped(self, text: str) -> str:
        while text and self._strip:
            if text[0] != self._strip[0]:
                self._strip = ""
                break
            text, self._strip = text[1:], self._strip[1:]
        return text


class DecodedStream:
    """The library decodes the last tokens, again for each token: any decoder, at the price of time."""

    def __init__(self, decode: Decode, prompt: Sequence[int], cleans_up: bool) -> None:
        self._decode = decode
        self._cleans_up = cleans_up
        self._window = list(prompt[-_CONTEXT_TOKENS:])
        if cleans_up or not decode(self._window):  # The first token of a text may be spelled in another way.
            self._window = list(prompt)
        self._prefix = decode(self._window).rstrip(REPLACEMENT)  # What the window's given tokens spell.
        self._given = len(self._window)  # Tokens of the window.

    def add(self, token: int) -> str:
        self._window.append(token)
        text = self._decode(self._window)
        undecoded = len(self._window) - self._given
        if undecoded < MOST_HELD and (len(text) <= len(self._prefix) or self._may_change(text)):
            return ""
        new = text[len(self._prefix) :]
        self._window = self._window[self._given :]
        self._given = len(self._window)
        self._prefix = self._decode(self._window)
        return new

    def uncertain(self) -> str:
        return ""

    def end(self) -> str:
        return self._decode(self._window)[len(self._prefix) :]

    def _may_change(self, text: str) -> bool:
        # A replacement character at the end may be the beginning of a longer character.
        return text.endswith(REPLACEMENT) or (self._cleans_up and bool(_BEFORE_CLEAN_UP.search(text)))


def _decoded(data: bytes) -> tuple[str, bytes]:
    """The characters of `data`, U+FFFD for each byte of none, and what may begin another character."""
    text = ""
    while True:
        try:
            whole, used = codecs.utf_8_decode(data, "strict", False)
            return text + whole, data[used:]
        except UnicodeDecodeError as error:
            text += data[: error.start].decode() + REPLACEMENT * (error.end - error.start)
            data = data[error.end :]
