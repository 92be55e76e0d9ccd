"""Sound as files of every kind: by libsndfile, and as browsers, phones and encoders that write to a pipe make them."""

import io
from collections.abc import Callable, Sequence
from functools import partial

import av
import numpy as np
import soundfile

RATE = 48_000


def tone(seconds: float = 1.0, rate: int = RATE, hertz: float = 440.0) -> np.ndarray:
    """Float32 [samples], at half of full scale."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def words(seconds: float, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """Float32 [samples]: a burst of noisy tones each half second, so that no two parts are alike."""
    chance = np.random.default_rng(seed)
    sound = np.zeros(round(seconds * rate), np.float32)
    for start in range(0, len(sound), rate // 2):
        burst = sound[start : start + round(0.35 * rate)]
        burst += chance.uniform(0.1, 0.6) * tone(len(burst) / rate, rate, chance.uniform(100, 3000))[: len(burst)]
        burst += chance.normal(0, 0.05, len(burst)).astype(np.float32)
    return sound.clip(-1, 1)


def saved(samples: np.ndarray, rate: int = RATE, file_format: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=file_format, subtype=subtype)
    return file.getvalue()


class _Pipe(io.RawIOBase):
    """A file that cannot go back to write a length."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, data: object) -> int:
        piece = bytes(data)  # type: ignore[call-overload]
        self.content += piece
        return len(piece)

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def recorded(
    samples: np.ndarray, container: str, codec: str, rate: int = RATE, options: dict[str, str] | None = None
) -> bytes:
    """By FFmpeg, into a pipe. `samples`: float32 [samples] at `rate`."""
    pipe = _Pipe()
    with av.open(pipe, "w", format=container, options=options or {}) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.codec_context.format.name, "mono", rate, size)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), "flt", "mono")
        frame.sample_rate = rate
        for ready in (*resampler.resample(frame), *resampler.resample(None)):
            file.mux(stream.encode(ready))
        file.mux(stream.encode(None))
    return bytes(pipe.content)


FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}

FILES: dict[str, Callable[[np.ndarray], bytes]] = {
    "WAV": saved,
    "FLAC": partial(saved, file_format="FLAC"),
    "Ogg Vorbis": partial(saved, file_format="OGG", subtype="VORBIS"),
    "Ogg Opus": partial(saved, file_format="OGG", subtype="OPUS"),
    "MP3": partial(saved, file_format="MP3"),
    "AIFF": partial(saved, file_format="AIFF"),
    "CAF": partial(saved, file_format="CAF"),
    "W64": partial(saved, file_format="W64"),
    "RF64": partial(saved, file_format="RF64"),
    "WebM of a browser": partial(recorded, container="webm", codec="libopus", options={"live": "1"}),
    "MP4 of a browser": partial(recorded, container="mp4", codec="aac", options=FRAGMENTS),
    "AAC": partial(recorded, container="adts", codec="aac"),
    "Ogg of a pipe": partial(recorded, container="ogg", codec="libopus"),
    "FLAC of a pipe": partial(recorded, container="flac", codec="flac"),
    "MP3 of a pipe": partial(recorded, container="mp3", codec="libmp3lame"),
    "M4A of a phone": partial(recorded, container="mov", codec="alac", options=FRAGMENTS),
}
"""By their kind. Each takes float32 [samples] at RATE."""


def peak_hertz(samples: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * rate / len(samples))


def loudness_db(samples: np.ndarray) -> float:
    """Of full scale."""
    return float(20 * np.log10(max(float(np.sqrt(np.mean(np.square(samples)))), 1e-10)))


def joined(*parts: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(part, np.float32) for part in parts])
