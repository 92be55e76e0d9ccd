"""What transformers itself writes down of a sound."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoTokenizer, pipeline

from tests.support import pretrained
from tests.support.audio.models import RATE

Words = list[tuple[str, float, float]]
"""Each with its start and its end."""


def generated(folder: Path, samples: np.ndarray, long: bool = False, **options: Any) -> str:
    """GEN of the reports: the library's extractor, `generate` and `batch_decode`, of one clip."""
    extractor, tokenizer = pretrained(AutoFeatureExtractor, folder), pretrained(AutoTokenizer, folder)
    model = pretrained(AutoModelForSpeechSeq2Seq, folder)
    if model.config.model_type == "whisper":
        form: dict[str, Any] = {"truncation": False, "padding": "longest"} if long else {}
        inputs = extractor(samples, sampling_rate=RATE, return_tensors="pt", return_attention_mask=long, **form)
    else:
        inputs = extractor([samples], sampling_rate=RATE, return_tensors="pt", padding=True)
    tokens = model.generate(**inputs, **options)
    return str(tokenizer.batch_decode(tokens, skip_special_tokens=True)[0]).strip()


def timed_words(folder: Path, samples: np.ndarray, **options: Any) -> Words:
    """By the library's pipeline, which would search with five beams."""
    recognise: Any = pipeline("automatic-speech-recognition", model=str(folder), device="cpu")
    return _timed(recognise(samples, return_timestamps="word", generate_kwargs={"num_beams": 1} | options)["chunks"])


def timed_words_of_segments(folder: Path, samples: np.ndarray, **options: Any) -> Words:
    """By the library's own times of tokens. Its pipeline joins words of two segments where the first has no end."""
    extractor, tokenizer = AutoFeatureExtractor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    form = {"truncation": False, "padding": "longest", "return_attention_mask": True}
    inputs = extractor(samples, sampling_rate=RATE, return_tensors="pt", **form)
    asked = {"return_timestamps": True, "return_token_timestamps": True, "return_segments": True}
    found = AutoModelForSpeechSeq2Seq.from_pretrained(folder).eval().generate(**inputs, **asked, **options)
    words: Words = []
    for segment in found["segments"][0]:
        output = {name: segment[name][None] for name in ("tokens", "token_timestamps")}
        said: dict[str, Any] = {"return_timestamps": "word", "return_language": None, "time_precision": 0.02}
        words += _timed(tokenizer._decode_asr([output], **said)[1]["chunks"])
    return words


def _timed(chunks: Any) -> Words:
    return [(one["text"].strip(), *one["timestamp"]) for one in chunks if one["text"].strip()]


@torch.inference_mode()
def frames(folder: Path, samples: np.ndarray) -> np.ndarray:
    """The most probable token of each frame of a clip, by the library's own."""
    extractor = pretrained(AutoFeatureExtractor, folder)
    model = pretrained(AutoModelForCTC, folder)
    inputs = extractor([samples], sampling_rate=RATE, return_tensors="pt", padding=True)
    own = model.generate(**inputs) if "generate" in type(model).__dict__ else model(**inputs).logits.argmax(-1)
    tokens: np.ndarray = own[0].numpy()
    return tokens


def spelled(folder: Path, tokens: np.ndarray) -> str:
    """By the library's own grouping; special tokens are taken out of the text."""
    tokenizer = pretrained(AutoTokenizer, folder)
    text = str(tokenizer.decode(tokens, skip_special_tokens=False))
    for special in ("<pad>", "<s>", "</s>", "<unk>"):
        text = text.replace(special, "")
    return text.strip()
