"""A detector and a Whisper with random weights, the same every time, in real folders; and sound to write down."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForObjectDetection,
    AutoModelForSpeechSeq2Seq,
    RTDetrConfig,
    RTDetrResNetConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperTokenizer,
)
from transformers.models.rt_detr import RTDetrImageProcessorPil
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from benchmarks.models import SEED, clouds

RATE = 16_000
PIXELS = 640
WORDS, ALL = 50_257, 51_865
"""Whisper's tokens, before those that steer it, and with them."""


@torch.no_grad()
def save_detector(folder: Path) -> Path:
    """RT-DETR's shape with a ResNet-18, 20 M parameters, 80 labels, 640 pixels."""
    torch.manual_seed(SEED)
    labels = {index: f"class {index:02d}" for index in range(80)}
    backbone = RTDetrResNetConfig(  # type: ignore[call-arg]
        depths=[2, 2, 2, 2],
        hidden_sizes=[64, 128, 256, 512],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[128, 256, 512],
        hidden_expansion=0.5,
        decoder_layers=3,
        id2label=labels,
        label2id={label: index for index, label in labels.items()},
    )
    model: Any = AutoModelForObjectDetection.from_config(config)
    processor = RTDetrImageProcessorPil(size={"height": PIXELS, "width": PIXELS})
    for name, tensor in model.named_parameters():
        if "class_embed" in name or "enc_score_head" in name:  # else all queries score alike
            tensor.add_(torch.randn_like(tensor) * 0.1)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain average
    model.train()
    for seed in range(4):  # norms that never saw a picture let nothing of it through
        model(**processor(clouds(640, 480, 1000 + seed), return_tensors="pt"))
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@torch.no_grad()
def save_whisper(folder: Path, tokens: int) -> Path:
    """Whisper tiny's shape, 38 M parameters. It writes so many tokens of every window: none of them ends a text."""
    folder.mkdir(parents=True)
    number = _save_words(folder)
    torch.manual_seed(SEED)
    end = number["<|endoftext|>"]
    config = WhisperConfig(
        d_model=384,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_ffn_dim=1536,
        vocab_size=ALL,
        decoder_start_token_id=number["<|startoftranscript|>"],
        eos_token_id=end,
        pad_token_id=end,
        bos_token_id=end,
    )
    model: Any = AutoModelForSpeechSeq2Seq.from_config(config)
    for name, tensor in model.named_parameters():  # fresh weights write the same token for every sound
        if "norm" not in name and "embed" not in name:
            tensor.mul_(3.0)
    model.model.decoder.embed_positions.weight.mul_(10.0)
    known: dict[str, Any] = {
        "is_multilingual": False,  # CTranslate2 takes it for that, and leaves out the tokens of language and task
        "no_timestamps_token_id": number["<|notimestamps|>"],
        "suppress_tokens": list(range(WORDS, ALL)),
        "begin_suppress_tokens": [],
        "max_new_tokens": tokens,
        "_from_model_config": False,  # else none of it is read
    }
    for name, value in known.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def sound(seconds: float, seed: int) -> bytes:
    """A WAV at 16 kHz: bursts of noisy tones, so that no two parts are alike."""
    chance = np.random.default_rng(seed)
    samples = chance.normal(0, 0.01, round(seconds * RATE))
    for start in range(0, len(samples), RATE // 4):
        part = samples[start : start + RATE // 5]
        part += chance.uniform(0.1, 0.5) * np.sin(2 * np.pi * chance.uniform(100, 4000) * np.arange(len(part)) / RATE)
    file = io.BytesIO()
    soundfile.write(file, samples.clip(-1, 1), RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _save_words(folder: Path) -> dict[str, int]:
    """A word for each number, so that equal texts are equal tokens. The numbers of those that steer by name."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"Ġ{n:x}" for n in range(WORDS - len(letters))), "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tasks = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
    names = [f"<|{name}|>" for name in ("startoftranscript", *list(LANGUAGES)[:99], *tasks)]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    tokenizer.add_tokens([f"<|{n * 0.02:.2f}|>" for n in range(1501)])
    tokenizer.save_pretrained(folder)
    numbers: Any = tokenizer.convert_tokens_to_ids
    found = {name: int(numbers(name)) for name in (*names, "<|endoftext|>")}
    assert found["<|notimestamps|>"] == ALL - 1502
    return found
