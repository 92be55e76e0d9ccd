"""Mutated files of each format: sound or InvalidAudio, quickly, within the limits, and little memory.

`make fuzz-audio` takes 20,000 mutations of each format, `make test` some hundred.
"""

import random
import struct
import time

import numpy as np
import psutil
import pytest

from deployments.contract.errors import InvalidAudio
from deployments.engines.audio.decoding import AudioLimits, decoded
from tests.deployments.engines.vision.test_fuzzing import mutated
from tests.support.audio.files import FILES, tone

LIMITS = AudioLimits(seconds=60)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", FILES)
def test_a_mutated_file_is_sound_or_invalid_audio_within_a_second(kind: str, request: pytest.FixtureRequest) -> None:
    whole = FILES[kind](tone(0.3))
    mutations = request.config.getoption("--audio-mutations")
    chance = random.Random(kind)
    survived, slowest = 0, 0.0
    for _ in range(mutations):
        audio_data = mutated(whole, chance)
        start = time.thread_time()
        try:
            heard = decoded(audio_data, 16_000, LIMITS)
        except InvalidAudio:
            pass
        else:
            assert heard.dtype == np.float32
            assert heard.ndim == 1
            assert len(heard) <= 60 * 16_000 + 1_600
            assert np.isfinite(heard).all()
            survived += 1
        slowest = max(slowest, time.thread_time() - start)
    assert survived or kind.startswith("Ogg")  # whose checksums leave none
    assert slowest < 1


def _atom(name: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", len(content) + 8, name) + content


def claiming(samples: int) -> bytes:
    """An MP4 of some hundred bytes that claims so many samples of one byte in one chunk."""
    numbers = struct.Struct(">I").pack
    sound = _atom(b"mp4a", bytes(6), b"\0\1", bytes(8), b"\0\1\0\x10", bytes(4), numbers(16_000 << 16))
    tables = _atom(
        b"stbl",
        _atom(b"stsd", bytes(4), numbers(1), sound),
        _atom(b"stts", bytes(4), numbers(1), numbers(samples), numbers(1024)),
        _atom(b"stsc", bytes(4), numbers(1), numbers(1), numbers(samples), numbers(1)),
        _atom(b"stsz", bytes(4), numbers(7), numbers(samples)),
        _atom(b"stco", bytes(4), numbers(1), numbers(48)),
    )
    media = _atom(
        b"mdia",
        _atom(b"mdhd", bytes(12), numbers(16_000), numbers(samples), bytes(4)),
        _atom(b"hdlr", bytes(8), b"soun", bytes(13)),
        _atom(b"minf", _atom(b"smhd", bytes(8)), tables),
    )
    track = _atom(b"trak", _atom(b"tkhd", bytes(84)), media)
    return _atom(b"ftyp", b"isom", bytes(4)) + _atom(b"moov", _atom(b"mvhd", bytes(100)), track)


@pytest.mark.parametrize("samples", [50_000_000, 2**31 - 1])
def test_an_index_that_an_mp4_only_claims_takes_no_memory(samples: int) -> None:
    before = psutil.Process().memory_info().vms
    with pytest.raises(InvalidAudio):
        decoded(claiming(samples), 16_000)
    assert psutil.Process().memory_info().vms - before < 200 << 20
