"""Small random speech models in real Hugging Face folders, and what transformers itself writes down."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCTC,
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    SeamlessM4TFeatureExtractor,
    Speech2TextFeatureExtractor,
    Speech2TextTokenizer,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
    WhisperTokenizer,
)
from transformers.models.lasr import LasrFeatureExtractor, LasrTokenizer
from transformers.models.parakeet import ParakeetFeatureExtractor, ParakeetTokenizer

from deployments.engines.loading import build_in_turn

build_in_turn()  # as replicas do: another test's thread may still load a model

RATE = 16_000
LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
LANGUAGES = ["en", "fr", "de", "es"]

CONV: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [10, 8, 4],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": len(LETTERS),
    "pad_token_id": 0,
    "ctc_loss_reduction": "mean",
}
LAYER: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "subsampling_conv_channels": 8,
    "num_mel_bins": 80,
    "scale_input": False,
    "conv_kernel_size": 9,
}
WHISPER: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_target_positions": 64,
}


def letters_tokenizer(folder: Path, **options: Any) -> None:
    (folder / "vocab.json").write_text(json.dumps({letter: number for number, letter in enumerate(LETTERS)}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), **options).save_pretrained(folder)


def words_tokenizer(folder: Path, kind: type[Any] = PreTrainedTokenizerFast, **special: str) -> None:
    """Pieces of words, of which some begin one."""
    pieces = ["<pad>", "<s>", "</s>", "<unk>", *(f"▁{one}" for one in "abcdefgh"), *"ijklmnop"]
    unigrams = models.Unigram([(piece, 0.0) for piece in pieces], 3)
    numbers = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(unigrams if kind is LasrTokenizer else models.BPE(numbers, []))
    tokenizer.decoder = decoders.Metaspace()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | special
    kind(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def _spm(folder: Path) -> None:
    lines = folder / "lines.txt"
    lines.write_text("\n".join(["the cat sat on the mat", "a dog and a log", "we see the sea", "hello world"] * 5))
    sentencepiece.SentencePieceTrainer.train(
        input=str(lines), model_prefix=str(folder / "spm"), vocab_size=40, hard_vocab_limit=False, minloglevel=2
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    names = ["<s>", "<pad>", "</s>", "<unk>", *(pieces.IdToPiece(n) for n in range(3, pieces.GetPieceSize()))]
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    Speech2TextTokenizer(str(folder / "vocab.json"), str(folder / "spm.model")).save_pretrained(folder)
    lines.unlink()


def _whisper_words(folder: Path, languages: list[str]) -> dict[str, int]:
    """Bytes, then the tokens that steer. The numbers of these by name."""
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary | {"<|endoftext|>": 256}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    steering = ["startoftranscript", *languages, "translate", "transcribe", "startoflm", "startofprev", "nospeech"]
    names = [f"<|{name}|>" for name in (*steering, "notimestamps")]
    times = [f"<|{n * 0.02:.2f}|>" for n in range(1501)]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    tokenizer.add_tokens(times)
    tokenizer.save_pretrained(folder)
    numbers: Any = tokenizer.convert_tokens_to_ids
    return {name: int(numbers(name)) for name in (*names, "<|endoftext|>", times[0], times[-1])}


def whisper(
    folder: Path,
    window_s: int = 30,
    languages: list[str] | None = None,
    mels: int = 80,
    generation: dict[str, Any] | None = None,
    change: Callable[[Any, dict[str, int]], None] | None = None,
    letters: str = "abcdefghijklmnopqrstuvwxyz",
    **options: Any,
) -> Path:
    """`generation`: further keys of generation_config.json, or with None left out. `change` may alter the model, which
    writes `letters`."""
    folder.mkdir(parents=True, exist_ok=True)
    languages = LANGUAGES if languages is None else languages
    number = _whisper_words(folder, languages)
    start, end = number["<|startoftranscript|>"], number["<|endoftext|>"]
    config = AutoConfig.for_model(
        "whisper",
        **WHISPER
        | {"max_source_positions": window_s * 50, "num_mel_bins": mels, "vocab_size": number["<|30.00|>"] + 1}
        | {"decoder_start_token_id": start, "eos_token_id": end, "pad_token_id": end, "bos_token_id": end}
        | options,
    )
    torch.manual_seed(3)
    model = AutoModelForSpeechSeq2Seq.from_config(config)
    _tell_apart(model, 2.0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    spelled = set(tokenizer(letters, add_special_tokens=False).input_ids)
    with torch.no_grad():
        rows = model.get_input_embeddings().weight
        rows[list(spelled)] *= 3  # else times only
        rows[number["<|0.00|>"] :] *= 0.7
        rows[end] = 0
    known: dict[str, Any] = {
        "max_length": 24,
        "is_multilingual": bool(languages),
        "lang_to_id": {f"<|{name}|>": number[f"<|{name}|>"] for name in languages} or None,
        "task_to_id": {name: number[f"<|{name}|>"] for name in ("translate", "transcribe")} if languages else None,
        "no_timestamps_token_id": number["<|notimestamps|>"],
        "suppress_tokens": sorted(set(range(number["<|0.00|>"])) - spelled - {end}),
        "begin_suppress_tokens": [end],
        "max_initial_timestamp_index": 50,
    }
    for name, value in (known | (generation or {})).items():
        if value is not None:
            setattr(model.generation_config, name, value)
    model.generation_config._from_model_config = False  # else none of it is read
    if change is not None:
        change(model, number)
    model.save_pretrained(folder)
    WhisperFeatureExtractor(chunk_length=window_s, feature_size=mels).save_pretrained(folder)
    return folder


def _seq2seq(
    folder: Path, model_type: str, small: dict[str, Any], extractor: Any, words: Callable[[Path], None]
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    words(folder)
    torch.manual_seed(3)
    config = AutoConfig.for_model(model_type, **small)
    model = AutoModelForSpeechSeq2Seq.from_config(config)
    _tell_apart(model, 1.6)
    model.generation_config.max_length = 20
    model.generation_config._from_model_config = False  # else none of it is read
    model.generation_config.suppress_tokens = [0, 1, 2, 3]  # so that something is written
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


def moonshine(folder: Path) -> Path:
    small = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "encoder_num_hidden_layers": 2,
        "decoder_num_hidden_layers": 2,
        "encoder_num_attention_heads": 2,
        "decoder_num_attention_heads": 2,
        "vocab_size": 20,
        "decoder_start_token_id": 1,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return _seq2seq(folder, "moonshine", small, Wav2Vec2FeatureExtractor(do_normalize=False), words_tokenizer)


def speech_to_text(folder: Path) -> Path:
    small = {name: size for name, size in WHISPER.items() if name != "max_target_positions"}
    small |= {
        "max_target_positions": 64,
        "max_source_positions": 3000,
        "conv_channels": 16,
        "input_feat_per_channel": 80,
    }
    small |= {"vocab_size": 40, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    return _seq2seq(folder, "speech_to_text", small, Speech2TextFeatureExtractor(), _spm)


def ctc(folder: Path, model_type: str = "wav2vec2", **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    small, extractor, words = CTC[model_type]
    words(folder)
    torch.manual_seed(3)
    model = AutoModelForCTC.from_config(AutoConfig.for_model(model_type, **small() | options))
    _tell_apart(model)
    model.save_pretrained(folder)
    extractor(options).save_pretrained(folder)
    return folder


def _samples(options: dict[str, Any]) -> Any:
    """Of wav2vec2 and its kin: a mask where the layers are normalised."""
    return Wav2Vec2FeatureExtractor(return_attention_mask=options.get("feat_extract_norm") == "layer")


def _sew() -> dict[str, Any]:
    return CONV | {"squeeze_factor": 2}


def _parakeet(kind: str) -> dict[str, Any]:
    encoder = AutoConfig.for_model(kind, **ENCODER)
    return {"vocab_size": 20, "pad_token_id": 0, "encoder_config": encoder.to_dict()}


def _bert() -> dict[str, Any]:
    keep = {
        name: CONV[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    }
    return keep | {"vocab_size": len(LETTERS), "pad_token_id": 0, "feature_projection_input_dim": 160}


CTC: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[dict[str, Any]], Any], Callable[[Path], None]]] = {
    "wav2vec2": (lambda: CONV, _samples, letters_tokenizer),
    "hubert": (lambda: CONV, _samples, letters_tokenizer),
    "wavlm": (lambda: CONV | {"num_buckets": 32, "max_bucket_distance": 80}, _samples, letters_tokenizer),
    "unispeech": (lambda: CONV, _samples, letters_tokenizer),
    "unispeech-sat": (lambda: CONV, _samples, letters_tokenizer),
    "data2vec-audio": (lambda: CONV, _samples, letters_tokenizer),
    "wav2vec2-conformer": (lambda: CONV, _samples, letters_tokenizer),
    "sew": (_sew, _samples, letters_tokenizer),
    "sew-d": (_sew, _samples, letters_tokenizer),
    "wav2vec2-bert": (_bert, lambda _: SeamlessM4TFeatureExtractor(), letters_tokenizer),
    "parakeet_ctc": (
        partial(_parakeet, "parakeet_encoder"),
        lambda _: ParakeetFeatureExtractor(),
        partial(words_tokenizer, kind=ParakeetTokenizer),
    ),
    "lasr_ctc": (
        partial(_parakeet, "lasr_encoder"),
        lambda _: LasrFeatureExtractor(feature_size=80),
        partial(words_tokenizer, kind=LasrTokenizer),
    ),
}
"""By model type: what makes it small, its folder's extractor and tokenizer."""


@torch.no_grad()
def _tell_apart(model: Any, noise: float = 0.6) -> None:
    """Fresh weights write the same for every sound."""
    for name, tensor in model.named_parameters():
        if "norm" not in name:
            tensor.add_((torch.rand_like(tensor) - 0.5) * (3.0 if "head" in name else noise))
