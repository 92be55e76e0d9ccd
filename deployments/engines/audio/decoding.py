"""Decodes a sound file into the channel and the sample rate that a model takes. Knows neither tensors nor FFmpeg."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soxr

from deployments.contract.errors import InvalidAudio
from deployments.engines.audio.files import blocks_of

_LOWEST_RATE, _HIGHEST_RATE = 1_000, 768_000
_MOST_CHANNELS = 64


@dataclass
class AudioLimits:
    """`seconds` that one file may have. May be set while running."""

    seconds: float = 1800.0


LIMITS = AudioLimits()
"""Of this process, for all its engines."""


def decoded(audio_data: bytes, rate: int, limits: AudioLimits = LIMITS) -> np.ndarray:
    """Float32 [samples] at `rate`: the mean of the channels, resampled. Raises InvalidAudio.

    Counts what it decodes: headers lie, and recordings of browsers state no length. It holds the answer and a block.
    """
    pieces = list(_resampled(audio_data, rate, limits))
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def _resampled(audio_data: bytes, rate: int, limits: AudioLimits) -> Iterator[np.ndarray]:
    seconds, source, stream = 0.0, 0, None
    for rate_of_block, block in blocks_of(audio_data):
        if not _LOWEST_RATE <= rate_of_block <= _HIGHEST_RATE:
            raise InvalidAudio(f"the audio has {rate_of_block} samples a second: not {_LOWEST_RATE} to {_HIGHEST_RATE}")
        if not 1 <= block.shape[1] <= _MOST_CHANNELS:
            raise InvalidAudio(f"the audio has {block.shape[1]} channels: not 1 to {_MOST_CHANNELS}")
        seconds += len(block) / rate_of_block
        if seconds > limits.seconds + 1e-6:  # of many blocks the sum is rounded
            raise InvalidAudio(f"the audio is longer than {limits.seconds:g} s")
        mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
        if not np.isfinite(mono).all():
            raise InvalidAudio("the audio has samples that are not finite numbers")
        if rate_of_block != source:  # also within a file
            if stream is not None:
                yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
            source = rate_of_block
            stream = None if source == rate else soxr.ResampleStream(source, rate, 1, dtype="float32")
        yield mono if stream is None else stream.resample_chunk(mono)
    if stream is not None:
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
