"""Small tokenizers of every kind, by name, and those of models that lie here."""

import tempfile
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertGenerationTokenizer, BertTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from tests.support import PROJECT
from tests.support.text_models import byte_level_tokenizer

TEXT = "Once upon a time, naïve 日本語 🎉 e\u0301 words  two spaces\nand lines"
FILES = [
    *(PROJECT / "models").glob("*/tokenizer.json"),
    *(PROJECT.parent / "shared" / "models").glob("*/tokenizer.json"),
]
_WORDS = [*"abdeinopst.,'?!", "##s", "##ing", "n't", "'s", "'", "##'", "m", "re", "ve", "do", "not", "word", "日"]


def _fast(backend: tokenizers.Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    backend.add_tokens([AddedToken("<added é 日>", normalized=False), AddedToken("<tool>", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", **options)


def _with_bytes(*steps: Any) -> PreTrainedTokenizerFast:
    """Pieces with a leading `▁`, and bytes for what has no piece."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] + [
        "▁▁",
        "▁a",
        *sorted({*TEXT.replace(" ", "▁")} & {*"▁,abcdeimnopstuwz"}),
    ]
    vocabulary = {piece: number for number, piece in enumerate(["<unk>", "<s>", "</s>", *pieces])}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(list(steps))
    return _fast(backend, unk_token="<unk>")


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 2 and Mistral have it."""
    return _with_bytes(decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0))


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    return _with_bytes(decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse())


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    return _with_bytes(decoders.Metaspace(), decoders.ByteFallback(), decoders.Fuse())


def _unigram(**options: Any) -> PreTrainedTokenizerFast:
    """SentencePiece's other model, as XGLM and T5 have it."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator([TEXT, "it 's , is n't it ? I 'm . ' we 've"] * 3, trainer)
    return _fast(backend, unk_token="<unk>", **options)


def _wordpiece(**options: Any) -> BertTokenizer:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS]
    return BertTokenizer({word: number for number, word in enumerate(vocabulary)}, **options)


def _words(decoder: Any, end: str = "") -> PreTrainedTokenizerFast:
    vocabulary = {f"{word}{end if number % 2 else ''}": number for number, word in enumerate(["<s>", "</s>", *_WORDS])}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, "<s>"))
    if decoder is not None:
        backend.decoder = decoder
    return _fast(backend)


def _sentencepiece() -> BertGenerationTokenizer:
    """One that `sentencepiece` runs, not `tokenizers`."""
    with tempfile.NamedTemporaryFile(suffix=".model") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([TEXT, "it 's , is n't it ?"] * 5),
            model_writer=file,
            vocab_size=340,
            byte_fallback=True,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        file.flush()
        return BertGenerationTokenizer(file.name)


def _byte_level_with_added() -> PreTrainedTokenizerFast:
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens([AddedToken(text) for text in ("<added é 日>", "<tool>", "\ufffd", "éé")])
    return tokenizer


KINDS: dict[str, Callable[[], Any]] = {
    "byte level": _byte_level_with_added,
    "byte fallback (Llama 2)": llama_tokenizer,
    "byte fallback (Gemma)": gemma_tokenizer,
    "byte fallback (Metaspace)": metaspace_tokenizer,
    "SentencePiece Unigram": _unigram,
    "SentencePiece Unigram, cleaned up": lambda: _unigram(clean_up_tokenization_spaces=True),
    "WordPiece": _wordpiece,
    "WordPiece, cleaned up": lambda: _wordpiece(clean_up_tokenization_spaces=True),
    "BPE with word ends": lambda: _words(decoders.BPEDecoder(), "</w>"),
    "words without a decoder": lambda: _words(None),
    "replacement across tokens": lambda: _words(
        decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("[aeo]"), "*")])
    ),
    "CTC": lambda: _words(decoders.CTC(pad_token="a", word_delimiter_token="not")),
    "SentencePiece in Python": _sentencepiece,
    "bytes in Python (ByT5)": ByT5Tokenizer,
}
for _file in FILES:
    KINDS[_file.parent.name] = partial(AutoTokenizer.from_pretrained, _file.parent, local_files_only=True)


@cache
def tokenizer_of(kind: str) -> Any:
    return KINDS[kind]()
