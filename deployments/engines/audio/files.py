"""The sound in a file: WAV, FLAC, Ogg, MP3, and what browsers and phones record (WebM, MP4, AAC). Knows FFmpeg (PyAV).

The kind is found by the first bytes, never by a name. Only the named demuxers and codecs run: FFmpeg has others that
open further files and addresses, or decode pictures.
"""

import ctypes
import io
import re
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer

from deployments.contract.errors import InvalidAudio

_KINDS = (
    ("wav", re.compile(rb"RI(FF|FX)....WAVE|RF64....WAVE", re.DOTALL)),
    ("w64", re.compile(rb"riff\x2e\x91\xcf\x11", re.DOTALL)),
    ("aiff", re.compile(rb"FORM....AIF[FC]", re.DOTALL)),
    ("caf", re.compile(rb"caff")),
    ("flac", re.compile(rb"fLaC")),
    ("ogg", re.compile(rb"OggS")),
    ("matroska", re.compile(rb"\x1a\x45\xdf\xa3")),
    ("mov", re.compile(rb"....(ftyp|moov|mdat|wide|free|skip)", re.DOTALL)),
    ("aac", re.compile(rb"\xff[\xf0\xf1\xf8\xf9]", re.DOTALL)),
    ("mp3", re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]", re.DOTALL)),  # layers 1 to 3
)
_MAY_BE_EMPTY = {"wav", "w64", "aiff", "caf", "flac"}
_CODECS = (
    "aac,alac,flac,mp1float,mp2float,mp3,mp3float,opus,vorbis,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,pcm_alaw,pcm_mulaw,pcm_s8,"
    "pcm_u8,pcm_s16be,pcm_s16le,pcm_s24be,pcm_s24le,pcm_s32be,pcm_s32le,pcm_f32be,pcm_f32le,pcm_f64be,pcm_f64le"
)
_LARGEST_ALLOCATION = 64 << 20
"""Of FFmpeg. A short MP4 may claim an index of some GB."""
_MOST_PLANES = 7
"""PyAV counts a frame's planes up to an empty one. Of eight there is none: it would read whatever memory follows."""
NO_AUDIO = "the audio is not one of WAV, FLAC, Ogg, MP3, WebM, MP4, AAC, AIFF, CAF, or its header is damaged"
DAMAGED = "the audio is damaged"

Block = tuple[int, np.ndarray]
"""A sample rate, and float32 [samples, channels]."""


def blocks_of(audio_data: bytes) -> Iterator[Block]:
    """The sound of the first audio stream to its end, whatever length the header states. Raises InvalidAudio.

    A packet that does not decode is left out, as players do, where most of the others do.
    """
    kind = _kind_of(audio_data)
    try:
        options = {"codec_whitelist": _CODECS, "protocol_whitelist": "none"}
        file = av.open(io.BytesIO(audio_data), format=kind, options=options, metadata_errors="ignore")
    except (av.FFmpegError, ValueError, MemoryError, OverflowError):
        raise InvalidAudio(NO_AUDIO) from None
    assert isinstance(file, InputContainer)
    with file:
        stream = next(iter(file.streams.audio), None)
        if stream is None or stream.codec_context is None:
            raise InvalidAudio("the file has no audio, or of a codec that is not read")
        stream.codec_context.thread_count = 1
        good = bad = 0
        try:
            for packet in file.demux(stream):
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    bad += 1
                    continue
                for frame in frames:
                    good += 1
                    if frame.format.is_planar and frame.layout.nb_channels > _MOST_PLANES:
                        raise InvalidAudio(f"the audio has more than {_MOST_PLANES} channels")
                    yield frame.sample_rate, _samples(frame)
        except (av.FFmpegError, ValueError, MemoryError, OverflowError):
            bad += 1  # The container ends here.
        if bad > good or (good == 0 and kind not in _MAY_BE_EMPTY):
            raise InvalidAudio(DAMAGED)


def _kind_of(audio_data: bytes) -> str:
    head = audio_data[:16]
    if head[:3] == b"ID3" and len(audio_data) >= 10:  # a tag before the sound, whose length has 7 bits a byte
        length = 0
        for byte in audio_data[6:10]:
            length = length << 7 | byte & 0x7F
        head = audio_data[10 + length : 26 + length].lstrip(b"\0") or b"\xff\xfb"
        tagged = next((kind for kind, pattern in _KINDS if pattern.match(head)), "mp3")
        return tagged if tagged in ("aac", "flac") else "mp3"
    kind = next((kind for kind, pattern in _KINDS if pattern.match(head)), None)
    if kind is None:
        raise InvalidAudio(NO_AUDIO)
    return kind


def _samples(frame: av.AudioFrame) -> np.ndarray:
    """Float32 [samples, channels]; full scale is 1."""
    samples: np.ndarray = frame.to_ndarray()
    channels = frame.layout.nb_channels
    shaped: np.ndarray = samples.T if frame.format.is_planar else samples.reshape(-1, channels)
    if shaped.dtype == np.uint8:
        shaped = (shaped.astype(np.float32) - 128) / 128
    if shaped.dtype.kind == "i":
        return shaped.astype(np.float32) * np.float32(2.0 ** (1 - 8 * shaped.itemsize))
    return shaped.astype(np.float32, copy=False)


def _limit_allocations() -> None:
    for library in (Path(av.__file__).parent.parent / "av.libs").glob("libavutil*"):
        ctypes.CDLL(str(library)).av_max_alloc(ctypes.c_size_t(_LARGEST_ALLOCATION))


_limit_allocations()
