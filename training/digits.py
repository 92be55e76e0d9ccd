"""Recordings of spoken digits as waveforms, and their log mel spectrograms, as they are and varied for training."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import SeamlessM4TFeatureExtractor

Samples = NDArray[np.float32]

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RATE = 16_000
"""What the model hears. Its 10 ms steps are too coarse for these short words at the recordings' own 8 kHz."""
HEARD_HZ = 4_000
"""The recordings have nothing above it. What a better microphone adds there must not matter."""


@dataclass(frozen=True)
class Recording:
    digit: int
    speaker: str
    number: int
    samples: Samples
    """At the archive's own rate, in [-1, 1]."""
    rate: int

    @property
    def word(self) -> str:
        return WORDS[self.digit]


def load_recordings(archive: Path, part: str) -> list[Recording]:
    """Those of `train` or `test`, whose names are DIGIT_SPEAKER_NUMBER.wav."""
    recordings = []
    with zipfile.ZipFile(archive) as files:
        for name in sorted(name for name in files.namelist() if name.startswith(part) and name.endswith(".wav")):
            digit, speaker, number = Path(name).stem.split("_")
            samples, rate = soundfile.read(io.BytesIO(files.read(name)), dtype="float32")
            recordings.append(Recording(int(digit), speaker, int(number), samples, rate))
    return recordings


def resampled(recording: Recording, speed: float = 1.0) -> Samples:
    samples: Samples = soxr.resample(recording.samples, recording.rate, RATE / speed)
    return samples


def log_mels(samples: Samples, extractor: SeamlessM4TFeatureExtractor) -> Tensor:
    """What the extractor makes of one waveform, [frames, mels] with an even number of frames, many times as fast."""
    frames = torch.from_numpy(samples * np.float32(2**15)).double().unfold(0, 400, 160)
    frames = frames - frames.mean(1, keepdim=True)
    emphasized = torch.cat([frames[:, :1] * (1 - 0.97), frames[:, 1:] - 0.97 * frames[:, :-1]], 1)
    power = torch.fft.rfft(emphasized * torch.from_numpy(extractor.window), n=512).abs().square()
    mels = (power @ torch.from_numpy(extractor.mel_filters)).clamp(min=1.192092955078125e-07).log()
    mels = (mels - mels.mean(0)) / (mels.var(0) + 1e-7).sqrt()
    even: Tensor = mels[: len(mels) // 2 * 2]
    return even.float()


def noise(count: int, random: np.random.Generator) -> Samples:
    """White to pink, of unit power."""
    length = 1 << max(count - 1, 1).bit_length()  # Powers of two, since the transform of other lengths is slow.
    spectrum = np.fft.rfft(random.standard_normal(length))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1) ** -random.uniform(0, 0.6)
    samples = np.fft.irfft(spectrum, length)[:count]
    samples = samples / (samples.std() + 1e-9)
    return np.asarray(samples, np.float32)


def spoken(recordings: list[Recording], random: np.random.Generator) -> Samples:
    """The recordings one after another, each at its own speed and loudness, with pauses and noise."""
    pieces = []
    for index, recording in enumerate(recordings):
        if index or random.random() < 0.5:
            pieces.append(np.zeros(int(RATE * random.exponential(0.12)), np.float32))
        speed = random.uniform(0.85, 1.2)
        samples = resampled(recording, speed)
        pieces.append(samples / (np.abs(samples).max() + 1e-4) * np.float32(random.uniform(0.3, 1.0)))
    if random.random() < 0.5:
        pieces.append(np.zeros(int(RATE * random.exponential(0.12)), np.float32))
    together = np.concatenate(pieces)
    if random.random() < 0.5:  # Clean ones too: without noise what lies above 4 kHz looks otherwise.
        return together.astype(np.float32)
    volume = together.std() * 10 ** (-random.uniform(10, 50) / 20)
    return (together + noise(len(together), random) * np.float32(volume)).astype(np.float32)


def masked(mels: Tensor, heard: int, random: np.random.Generator) -> Tensor:
    """A band and some short times hidden; what lies above the `heard` bands replaced half the time."""
    mels = mels.clone()
    if random.random() < 0.5:
        above = mels[:, heard:]
        other = torch.from_numpy(random.standard_normal(above.shape).astype(np.float32))
        mels[:, heard:] = other if random.random() < 0.5 else other * 0.5 + mels[:, :1] * 0.5
    width = random.integers(0, 11)
    low = random.integers(0, heard - width)
    mels[:, low : low + width] = 0
    for _ in range(1 + len(mels) // 60):
        width = random.integers(0, min(5, len(mels) // 4))
        start = random.integers(0, len(mels) - width)
        mels[start : start + width] = 0
    return mels
