"""Texts as the encoder's tokens: special tokens, prompts, the longest text. Knows a Hugging Face tokenizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Encoding, normalizers
from transformers import AutoTokenizer

from deployments.contract.errors import InvalidRequest, ModelLoadFailed, PromptTooLong
from deployments.engines.embedding.batching import EncodedText
from deployments.engines.errors import load_failure
from deployments.engines.loading import LOCAL

MOST_TOKENS = 32_768
"""Of a text, where neither the folder nor the encoder has a limit."""
BY_LANGCHAIN = "check_embedding_ctx_length=False"


class EmbeddingTokenizer:
    """May be used from any thread. `max_tokens`: of a text with its special tokens."""

    def __init__(self, tokenizer: Any, max_tokens: int, lowercase: bool, takes_types: bool) -> None:
        if not tokenizer.is_fast:
            raise ModelLoadFailed("the folder's tokenizer is not one of the tokenizers library")
        self.max_tokens = max_tokens
        self.pad_id = int(tokenizer.pad_token_id or 0)
        self.pad_type_id = int(tokenizer.pad_token_type_id)
        self._special = frozenset(tokenizer.all_special_ids)
        self._takes_types = takes_types and "token_type_ids" in tokenizer.model_input_names
        backend = tokenizer.backend_tokenizer
        before = backend.normalizer
        if lowercase and "Lowercase" not in repr(before) and "lowercase=True" not in repr(before):
            backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *([before] if before else [])])
        backend.no_padding()
        backend.enable_truncation(max_tokens, strategy="longest_first", direction=tokenizer.truncation_side)
        self._backend = backend

    @classmethod
    def load(
        cls, folder: Path, said: int | None, most: int | None, lowercase: bool, takes_types: bool
    ) -> "EmbeddingTokenizer":
        """`said`: the longest text by the folder; by the tokenizer without it. `most`: that the encoder has positions
        for. `takes_types`: whether the encoder takes token types. Raises ModelLoadFailed."""
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, **LOCAL)
            longest = min(said or tokenizer.model_max_length, most or MOST_TOKENS)
            return cls(tokenizer, int(longest), lowercase, takes_types)
        except Exception as failure:
            raise load_failure(failure, folder, "the tokenizer") from None

    def encode(
        self, texts: Sequence[str], prompt: str, leave_prompt_out: bool = False, truncate: bool = True
    ) -> list[EncodedText]:
        """Raises PromptTooLong where a text is too long and may not be cut, InvalidRequest where it has no tokens."""
        left_out = self._prompt_tokens(prompt) if prompt and leave_prompt_out else 0
        encodings = self._backend.encode_batch_fast([prompt + text for text in texts])
        for index, encoding in enumerate(encodings):
            if encoding.overflowing and not truncate:
                raise PromptTooLong(f"the text at index {index} has more than {self.max_tokens} tokens")
            if not encoding.ids:
                raise InvalidRequest(f"the text at index {index} is empty, and the model puts no token around it")
        return [self._encoded(encoding, left_out) for encoding in encodings]

    def _encoded(self, encoding: Encoding, left_out: int) -> EncodedText:
        return EncodedText(encoding.ids, encoding.type_ids if self._takes_types else (), left_out)

    def accept(self, token_ids: Sequence[Sequence[int]], vocabulary: int, truncate: bool = True) -> list[EncodedText]:
        """Ids of the model as they are: without a prompt, and without special tokens that are not among them.

        Raises InvalidRequest, PromptTooLong.
        """
        for index, ids in enumerate(token_ids):
            if max(ids) >= vocabulary:
                why = f"the token id {max(ids)} at index {index} is none of the model's {vocabulary}"
                raise InvalidRequest(f"{why}: send texts, not ids of another model's ({BY_LANGCHAIN})")
            if len(ids) > self.max_tokens and not truncate:
                raise PromptTooLong(f"the tokens at index {index} are more than {self.max_tokens}")
        cut = [ids[: self.max_tokens] for ids in token_ids]
        return [EncodedText(ids, [0] * len(ids) if self._takes_types else ()) for ids in cut]

    def _prompt_tokens(self, prompt: str) -> int:
        """Without a special token at the end."""
        ids = self._backend.encode(prompt).ids
        return len(ids) - bool(ids and ids[-1] in self._special)
