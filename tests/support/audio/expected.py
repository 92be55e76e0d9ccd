"""What transformers itself writes down of a sound."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoTokenizer

from tests.support.audio.models import RATE


def generated(folder: Path, samples: np.ndarray, long: bool = False, **options: Any) -> str:
    """GEN of the reports: the library's extractor, `generate` and `batch_decode`, of one clip."""
    extractor, tokenizer = AutoFeatureExtractor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSpeechSeq2Seq.from_pretrained(folder).eval()
    if model.config.model_type == "whisper":
        form: dict[str, Any] = {"truncation": False, "padding": "longest"} if long else {}
        inputs = extractor(samples, sampling_rate=RATE, return_tensors="pt", return_attention_mask=long, **form)
    else:
        inputs = extractor([samples], sampling_rate=RATE, return_tensors="pt", padding=True)
    tokens = model.generate(**inputs, **options)
    return str(tokenizer.batch_decode(tokens, skip_special_tokens=True)[0]).strip()


@torch.inference_mode()
def frames(folder: Path, samples: np.ndarray) -> np.ndarray:
    """The most probable token of each frame of a clip, by the library's own."""
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    model = AutoModelForCTC.from_pretrained(folder).eval()
    inputs = extractor([samples], sampling_rate=RATE, return_tensors="pt", padding=True)
    own = model.generate(**inputs) if "generate" in type(model).__dict__ else model(**inputs).logits.argmax(-1)
    tokens: np.ndarray = own[0].numpy()
    return tokens


def spelled(folder: Path, tokens: np.ndarray) -> str:
    """By the library's own grouping; special tokens are taken out of the text."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = str(tokenizer.decode(tokens, skip_special_tokens=False))
    for special in ("<pad>", "<s>", "</s>", "<unk>"):
        text = text.replace(special, "")
    return text.strip()
