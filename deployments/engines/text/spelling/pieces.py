"""What each token adds to a text, for the decoders of `tokenizers` in which its neighbours do not change that."""

import json
import re
from typing import Any

from tokenizers import Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

_BYTE_OF = {character: bytes([byte]) for byte, character in bytes_to_unicode().items()}
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")
# Each step of a decoder by a letter. Before `ByteFallback` and `Fuse` all act on one token at a time; a `Strip` after
# `Fuse` acts on the whole text.
_STEPS = {"Replace": "r", "Metaspace": "m", "WordPiece": "w", "Strip": "s", "ByteFallback": "b", "Fuse": "f"}
_PIECEWISE = re.compile("[rmws]*b?(fs?)?")


class Pieces:
    """The pieces of one tokenizer, by token. For any thread."""

    def __init__(self, backend: Tokenizer, steps: list[dict[str, Any]], byte_level: bool, anchor: int) -> None:
        kinds = {step["type"] for step in steps}
        self.byte_level = byte_level
        """Whether all pieces are bytes. If not, those of byte tokens are, and a run of them is one UTF-8 text."""
        self.first_differs = not steps or not kinds.isdisjoint(("Metaspace", "WordPiece"))
        """Whether the first token of a text has another piece, that of `first`."""
        last = steps[-1] if "Fuse" in kinds else {}
        self.strip: str = last.get("content", "") * last.get("start", 0)
        """What is taken from the beginning of a text, character by character."""
        self._backend = backend
        self._byte_tokens = "ByteFallback" in kinds
        self._special = frozenset(t for t, added in backend.get_added_tokens_decoder().items() if added.special)
        self._anchor = anchor
        self._known: dict[int, str | bytes | None] = {}

    @classmethod
    def of(cls, backend: Tokenizer) -> "Pieces | None":
        """None where a token's piece may depend on its neighbours, so that only the library can tell the text."""
        steps = [] if backend.decoder is None else _flat(json.loads(backend.decoder.__getstate__()))
        byte_level = [step["type"] for step in steps] == ["ByteLevel"]
        form = "".join(_STEPS.get(step["type"], "?") for step in steps)
        if not byte_level and (not _PIECEWISE.fullmatch(form) or (form.endswith("fs") and steps[-1]["stop"])):
            return None
        for anchor in range(backend.get_vocab_size()):
            if backend.decode([anchor]).isalnum() and not _BYTE_TOKEN.fullmatch(backend.id_to_token(anchor) or ""):
                return cls(backend, steps, byte_level, anchor)
        return None

    def __getitem__(self, token: int) -> str | bytes | None:
        """What it adds to a text that has begun; None if it is no part of texts, since it is special or unknown."""
        try:
            return self._known[token]
        except KeyError:
            piece = self._known[token] = self._piece(token)
            return piece

    def first(self, token: int) -> str:
        """What it adds as the first token; no byte token."""
        return str(self._backend.decode([token]))

    def _piece(self, token: int) -> str | bytes | None:
        spelled = self._backend.id_to_token(token)
        if spelled is None or token in self._special:
            return None
        if self.byte_level:
            # An added token may have other characters; then all of it is text.
            return b"".join(_BYTE_OF[c] for c in spelled) if _BYTE_OF.keys() >= set(spelled) else spelled.encode()
        if self._byte_tokens and (byte := _BYTE_TOKEN.fullmatch(spelled)):
            return bytes([int(byte[1], 16)])
        # Behind another token, and without it.
        return str(self._backend.decode([self._anchor, token])[len(self._backend.decode([self._anchor])) :])


def _flat(step: dict[str, Any]) -> list[dict[str, Any]]:
    if step["type"] != "Sequence":
        return [step]
    return [inner for part in step["decoders"] for inner in _flat(part)]
