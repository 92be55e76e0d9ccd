"""Text to token ids and back. Knows a Hugging Face tokenizer, not models or requests."""

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.utils.chat_template_utils import encode_marked_chat

from deployments.contract.errors import InvalidRequest, ModelLoadFailed
from deployments.engines.errors import load_failure
from deployments.engines.loading import LOCAL
from deployments.engines.text.chat_template import ChatTemplate
from deployments.engines.text.folder.sentencepiece_model import spell_as_trained
from deployments.engines.text.spelling.pieces import Pieces
from deployments.engines.text.spelling.streams import TextStream, text_stream

# Before the prompt, between it and the suffix, and after that.
_FILL_IN_TOKENS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
)
_BYTE_OF = {character: bytes([byte]) for byte, character in bytes_to_unicode().items()}


class Tokenizer:
    """May be used from any thread."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._byte_level = self._backend is not None and "ByteLevel" in repr(self._backend.decoder)
        self._pieces = None if self._backend is None else Pieces.of(self._backend)
        is_bpe = self._backend is not None and type(self._backend.model).__name__ == "BPE"
        force = tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output
        # Spaces before punctuation are taken out of the text, but not from that of BPE.
        self._cleans_up = bool(tokenizer.clean_up_tokenization_spaces and (force or not is_bpe))
        self._token_bytes: dict[int, bytes] = {}
        self._kept: dict[int, str] = {}  # Special tokens that are decoded.
        self.encode("a")  # The first call sets options on the tokenizer; later ones only read.

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Raises ModelLoadFailed."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
            spell_as_trained(tokenizer, folder)
            return cls(tokenizer)
        except Exception as failure:
            raise load_failure(failure, folder, "the tokenizer") from None

    def encode(self, text: str, control_tokens: bool = False) -> list[int]:
        """Token ids, with BOS where the tokenizer adds one.

        `control_tokens`: whether text that spells a special token becomes it; otherwise it stays text.
        """
        with self._lock:
            return list(self._tokenizer.encode(text, split_special_tokens=not control_tokens))

    def encode_between(self, prompt: str, suffix: str, control_tokens: bool = False) -> list[int]:
        """Token ids of the prompt for a text between these two, with the tokenizer's own fill-in-the-middle tokens.

        Raises InvalidRequest where it has none.
        """
        with self._lock:
            known = self._tokenizer.get_added_vocab()
            tokens = next((tokens for tokens in _FILL_IN_TOKENS if known.keys() >= set(tokens)), None)
            if tokens is None:
                raise InvalidRequest("the model's tokenizer has no fill-in-the-middle tokens, which a suffix needs")
            before, after = (
                self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=not control_tokens)
                for text in (prompt, suffix)
            )
            first, middle, last = (known[token] for token in tokens)
            return [*self._tokenizer.encode(""), first, *before, middle, *after, last]

    def keeping(self, special: Mapping[str, int]) -> "Tokenizer":
        """One that decodes these special tokens too."""
        other = copy(self)
        other._kept = {token: text for text, token in special.items()}
        return other

    def added_tokens(self, texts: Iterable[str]) -> dict[str, int]:
        """Which of the texts are one token and nothing else, with that token; in their order."""
        with self._lock:
            known: dict[str, int] = self._tokenizer.get_added_vocab()
        return {text: known[text] for text in texts if text in known}

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids without special tokens, but for those that it keeps, as the library gives it."""
        if not self._kept or self._kept.keys().isdisjoint(ids):
            return self._decoded(ids)
        parts, start = [], 0
        for at, token in enumerate(ids):
            if token in self._kept:
                parts += [self._decoded(ids[start:at]), self._kept[token]]
                start = at + 1
        return "".join([*parts, self._decoded(ids[start:])])

    def _decoded(self, ids: Sequence[int]) -> str:
        if self._backend is not None and not self._cleans_up:
            return str(self._backend.decode(ids, skip_special_tokens=True))
        with self._lock:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def text_after(self, prompt: Sequence[int]) -> TextStream:
        """The text of the tokens that follow."""
        return text_stream(self._pieces, self.decode, self._cleans_up, prompt, self._kept)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token, which need not be whole characters."""
        known = self._token_bytes.get(token)
        if known is None:
            known = self._token_bytes[token] = self._bytes_of(token)
        return known

    def _bytes_of(self, token: int) -> bytes:
        with self._lock:
            text = self._tokenizer.convert_ids_to_tokens(token)
            added = token in self._tokenizer.added_tokens_decoder
        if not isinstance(text, str):  # The model may have more tokens than its tokenizer.
            return b""
        if added:
            return text.encode()
        if self._byte_level:
            return b"".join(_BYTE_OF.get(character) or character.encode() for character in text)
        if re.fullmatch("<0x[0-9A-Fa-f]{2}>", text):
            return bytes([int(text[3:5], 16)])
        return text.replace("▁", " ").encode() if "▁" in text else self.decode([token]).encode()

    @property
    def tokenizer_json(self) -> str | None:
        """The content of tokenizer.json with all added tokens; None for a slow tokenizer."""
        with self._lock:
            return None if self._backend is None else str(self._backend.to_str())

    def chat_template(self) -> ChatTemplate | None:
        """The model's own template, if it has one."""
        try:
            source = self._tokenizer.get_chat_template()
            tool_source = self._tokenizer.get_chat_template(tools=[{}])
        except ValueError:
            return None
        variables = {name: str(token) for name, token in self._tokenizer.special_tokens_map.items()}
        added = tuple((token.content, token.special) for token in self._tokenizer.added_tokens_decoder.values())
        return ChatTemplate(source, tool_source, variables, added)

    def encode_chat(self, chat: str) -> list[int]:
        """Token ids of a rendered chat. Control tokens come from the template only: in a message they stay text."""
        with self._lock:
            return list(encode_marked_chat(self._tokenizer, chat))

    @property
    def stop_ids(self) -> frozenset[int]:
        """The token that ends a text, if the tokenizer has one."""
        eos = self._tokenizer.eos_token_id
        return frozenset([eos] if isinstance(eos, int) else eos or [])

    def check(self, vocabulary: int) -> None:
        """Raises ModelLoadFailed where it cannot spell most of the model's tokens, or most of its own are not the
        model's. A few on either side are usual: embeddings are padded, tokens are added later."""
        with self._lock:
            ids = set(self._tokenizer.get_vocab().values())
        shared = sum(token < vocabulary for token in ids)
        if 2 * shared < max(vocabulary, len(ids)) or not self.encode("a"):
            counts = f"the tokenizer has {len(ids)} tokens, the model {vocabulary}"
            raise ModelLoadFailed(f"{counts}: add the files of the model's own tokenizer (tokenizer.json …)")

    def check_draft(self, other: "Tokenizer", name: str) -> None:
        """Raises ModelLoadFailed where a draft model's tokenizer spells other tokens, or the same by other numbers."""
        own, its = self._tokenizer.get_vocab(), other._tokenizer.get_vocab()
        if own != its:
            differ = len(own.items() ^ its.items())
            raise ModelLoadFailed(f"its draft model {name} has another vocabulary: {differ:,} tokens differ")

    def start_token(self, vocabulary: int) -> int:
        """What an empty prompt becomes: BOS, else EOS, else token 0. Less than `vocabulary`."""
        for token in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token is not None and token < vocabulary:
                return int(token)
        return 0
