"""From text to tokens and back while it grows. Knows a tokenizer and stop strings, not models."""

import logging
import re
import threading
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.utils.chat_template_utils import encode_marked_chat

from deployments.contract.errors import ModelLoadFailed
from deployments.engines.text.chat_template import ChatTemplate

log = logging.getLogger(__name__)

_CONTEXT = 6  # Tokens before the new ones that may change how these are spelled (a leading space, a joined accent).
_BYTE_OF = {character: bytes([byte]) for byte, character in bytes_to_unicode().items()}
_PATIENCE = 32  # Tokens that may pass without a whole character at the end.


class Tokens:
    """A tokenizer that may be used from any thread."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._byte_level = self._backend is not None and "ByteLevel" in repr(self._backend.decoder)
        self._spellings: dict[int, bytes] = {}
        self.encode("a")  # The first call sets options on the tokenizer; later ones only read.

    @classmethod
    def load(cls, folder: Path) -> "Tokens":
        """Raises ModelLoadFailed."""
        try:
            return cls(AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
        except Exception as failure:
            log.exception("a tokenizer did not load")
            raise ModelLoadFailed(f"the tokenizer cannot be read ({type(failure).__name__})") from None

    def encode(self, text: str) -> list[int]:
        """Token ids with the template's own BOS; text that spells a special token stays text. May be empty."""
        with self._lock:
            return list(self._tokenizer.encode(text, split_special_tokens=True))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids without special tokens."""
        if self._backend is not None:
            return str(self._backend.decode(ids, skip_special_tokens=True))
        with self._lock:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def spelling(self, token: int) -> bytes:
        """The bytes of one token, which need not be whole characters."""
        known = self._spellings.get(token)
        if known is None:
            known = self._spellings[token] = self._spell(token)
        return known

    def _spell(self, token: int) -> bytes:
        with self._lock:
            piece = self._tokenizer.convert_ids_to_tokens(token)
            added = token in self._tokenizer.added_tokens_decoder
        if not isinstance(piece, str):  # The model may have more tokens than its tokenizer.
            return b""
        if added:
            return piece.encode()
        if self._byte_level:
            return b"".join(_BYTE_OF.get(character) or character.encode() for character in piece)
        if re.fullmatch("<0x[0-9A-Fa-f]{2}>", piece):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("▁", " ").encode() if "▁" in piece else self.decode([token]).encode()

    @property
    def source(self) -> str | None:
        """As tokenizer.json has it, with all added tokens; None where the tokenizer is not of that kind."""
        with self._lock:
            return None if self._backend is None else str(self._backend.to_str())

    def chat_template(self) -> ChatTemplate | None:
        """The model's own template, if it has one."""
        try:
            source = self._tokenizer.get_chat_template()
        except ValueError:
            return None
        variables = {name: str(token) for name, token in self._tokenizer.special_tokens_map.items()}
        added = tuple((token.content, token.special) for token in self._tokenizer.added_tokens_decoder.values())
        return ChatTemplate(source, variables, added)

    def encode_chat(self, chat: str) -> list[int]:
        """Token ids of a rendered chat. Only the template writes control tokens; what messages spell is text."""
        with self._lock:
            return list(encode_marked_chat(self._tokenizer, chat))

    def first(self, known: int) -> int:
        """The token an empty prompt stands for: BOS, else EOS, else the first of `known` tokens."""
        for token in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token is not None and token < known:
                return int(token)
        return 0


class Continuation:
    """The text of a continuation as its tokens arrive: whole characters, nothing that may still be a stop string."""

    def __init__(self, tokens: Tokens, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        self._tokens = tokens
        self._stop = tuple(s for s in stop if s)
        self._window = list(prompt[-_CONTEXT:])
        self._known = tokens.decode(self._window)  # What the window spelled before the tokens not yet told.
        self._untold = len(self._window)
        self._held = ""  # Decoded, but perhaps the beginning of a stop string.
        self.stopped = False

    def add(self, token: int) -> str:
        """Take one token; give the text that is now certain. Sets `stopped` when a stop string is complete."""
        self._window.append(token)
        spelled = self._tokens.decode(self._window)
        # A replacement character at the end may be the beginning of a longer character.
        if len(spelled) <= len(self._known) or (spelled.endswith("\ufffd") and not self._is_overdue(spelled)):
            return ""
        self._held += spelled[len(self._known) :]
        self._window = self._window[self._untold :]
        self._untold = len(self._window)
        self._known = self._tokens.decode(self._window)
        return self._release()

    def _is_overdue(self, spelled: str) -> bool:
        """Whether bytes that are no characters have piled up, and none of them can be the beginning of one.

        Without it a model that writes only such bytes would have all of them decoded again for every token.
        """
        if len(self._window) - self._untold < _PATIENCE:
            return False
        return spelled.endswith("\ufffd\ufffd") or len(self._window) - self._untold >= 2 * _PATIENCE

    def add_all(self, tokens: Sequence[int]) -> str:
        """Take the tokens of a whole continuation at once; for one that has no stop strings."""
        self._window += tokens
        return self.end()

    def end(self) -> str:
        """What was held back, once no token follows."""
        if self.stopped:
            return ""
        self._held += self._tokens.decode(self._window)[len(self._known) :]
        released = self._release()
        if not self.stopped:
            released, self._held = released + self._held, ""
        return released

    def _release(self) -> str:
        found = [at for at in (self._held.find(s) for s in self._stop) if at >= 0]
        if found:
            self.stopped = True
            released, self._held = self._held[: min(found)], ""
            return released
        keep = max((_overlap(self._held, s) for s in self._stop), default=0)
        cut = len(self._held) - keep
        released, self._held = self._held[:cut], self._held[cut:]
        return released


def _overlap(text: str, stop: str) -> int:
    """The length of the longest proper beginning of `stop` that ends `text`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
