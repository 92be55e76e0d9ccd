"""Tokenizers that transformers makes of a tokenizer.model alone: held to what sentencepiece itself gives."""

from pathlib import Path

import sentencepiece
from tokenizers import decoders, normalizers
from transformers import PreTrainedTokenizerBase

FILE = "tokenizer.model"
SAMPLES = ("Once upon a time", "a", "naïve 猫, two\nlines")


def spell_as_trained(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Adds the space that the model was trained to see before every text, where transformers' conversion left it out
    (`findings/transformers_sentencepiece_without_prefix.sh`). Changes nothing where that does not help."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or (folder / "tokenizer.json").is_file() or not (folder / FILE).is_file():
        return
    try:
        trained = sentencepiece.SentencePieceProcessor(str(folder / FILE))
    except RuntimeError:  # A file of that name may be tiktoken's.
        return
    if _agree(tokenizer, trained) or backend.normalizer is None:
        return
    before = backend.normalizer, backend.decoder
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), backend.normalizer])
    bytes_too = [decoders.ByteFallback()] if getattr(backend.model, "byte_fallback", False) else []
    # As Llama's own converter has it.
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), *bytes_too, decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    if not _agree(tokenizer, trained):
        backend.normalizer, backend.decoder = before


def _agree(tokenizer: PreTrainedTokenizerBase, trained: sentencepiece.SentencePieceProcessor) -> bool:
    return all(tokenizer.encode(text, add_special_tokens=False) == trained.encode(text) for text in SAMPLES)
