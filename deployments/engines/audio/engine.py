"""Speech to text on a Hugging Face folder: which engine a folder has. Knows tensors and texts, not HTTP or Ray."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCTC, AutoModelForSpeechSeq2Seq

from deployments.contract.errors import ModelLoadFailed, ServingError
from deployments.engines.audio.ctc import CtcEngine
from deployments.engines.audio.flow import Straight
from deployments.engines.audio.loading import load_extractor, load_model, load_tokenizer
from deployments.engines.audio.seq2seq import Seq2SeqEngine
from deployments.engines.audio.transcript import SpeechOptions
from deployments.engines.audio.whisper import WhisperEngine
from deployments.engines.errors import load_failure
from deployments.engines.loading import configuration
from deployments.engines.vision.loading import check_dtype
from deployments.system.artifact_cache import ArtifactCache

SpeechEngine = CtcEngine | Seq2SeqEngine | WhisperEngine

PLAIN = ("cpu", torch.float32)
_GENERATING: dict[str, type[Seq2SeqEngine] | type[WhisperEngine]] = {
    "whisper": WhisperEngine,
    "moonshine": Seq2SeqEngine,
    "speech_to_text": Seq2SeqEngine,
}
"""By model type. Others are CTC models."""


CONVERTED_BYTES = 1 << 33
"""Of the cache of converted models."""


def load_engine(
    folder: Path,
    device: str = "cpu",
    dtype: str | None = None,
    cores: int | None = None,
    cache: ArtifactCache | None = None,
) -> SpeechEngine:
    """An engine that has answered already. Raises ModelLoadFailed with one line that names no path.

    `dtype`: a torch name such as "float16"; None is the folder's own. `cores`: to compute on; by default as many as
    torch uses. `cache`: of Whisper models that are converted for OpenVINO in the background, and found by later loads;
    without one nothing is converted.
    """
    try:
        check_dtype(dtype)
        config: Any = configuration(folder)
        kind = _GENERATING.get(config.model_type)
        extractor, tokenizer = load_extractor(folder), load_tokenizer(folder)
        auto = AutoModelForCTC if kind is None else AutoModelForSpeechSeq2Seq
        model = load_model(auto, folder, config, device, dtype)
        engine = (kind or CtcEngine)(model, extractor, tokenizer, cores or torch.get_num_threads())
        # A folder whose parts do not fit together is found here, not by the first caller.
        tone = np.sin(np.arange(engine.rate, dtype=np.float32) / 10)
        _answer(engine, tone)
        if cache is not None and isinstance(engine, WhisperEngine) and (model.device.type, model.dtype) == PLAIN:
            noise = np.random.default_rng(0).normal(0, 0.1, len(tone)).astype(np.float32)
            engine.convert([noise, tone], folder, cache)
        return engine
    except Exception as failure:
        raise load_failure(failure, folder) from failure


def _answer(engine: SpeechEngine, samples: np.ndarray) -> None:
    if isinstance(engine, WhisperEngine):
        engine.transcribe(samples, SpeechOptions(), lambda _: None, Straight())
        engine.try_together(samples)
        return
    [found] = engine.run(list(engine.windows(samples)))
    if isinstance(found, ServingError):
        raise ModelLoadFailed(found.message)
