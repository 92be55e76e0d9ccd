"""What is heard in a file: all of it, at the model's rate, in one channel."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr

from deployments.contract.errors import InvalidAudio
from deployments.engines.audio.decoding import AudioLimits, decoded
from tests.support import sweep
from tests.support.audio.files import FILES, RATE, joined, loudness_db, peak_hertz, recorded, saved, tone

LOSSY = {
    "Ogg Vorbis",
    "Ogg Opus",
    "MP3",
    "WebM of a browser",
    "MP4 of a browser",
    "AAC",
    "Ogg of a pipe",
    "MP3 of a pipe",
}

LOSSLESS = {"WAV", "FLAC", "AIFF", "CAF", "W64", "RF64", "FLAC of a pipe", "M4A of a phone"}


@pytest.mark.parametrize("kind", sweep(FILES, "WAV", "MP3", "WebM of a browser"))
def test_every_kind_is_decoded_to_its_end(kind: str) -> None:
    """S3: no container's length is believed. Recordings state none, and MP3s of a pipe have a wrong one."""
    heard = decoded(FILES[kind](tone(5.0)), 16_000)
    assert len(heard) == pytest.approx(80_000, rel=0.01)
    assert peak_hertz(heard, 16_000) == pytest.approx(440, abs=1)
    if kind in LOSSLESS:
        assert heard == pytest.approx(soxr.resample(tone(5.0), RATE, 16_000), abs=1e-3)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_another_rate_is_resampled_to_the_same_seconds_and_pitch(rate: int) -> None:
    """S6."""
    heard = decoded(saved(tone(2.0, rate), rate, subtype="FLOAT"), 16_000)
    assert len(heard) == 32_000
    assert peak_hertz(heard, 16_000) == pytest.approx(440, abs=1)
    assert heard == pytest.approx(soxr.resample(tone(2.0, rate), rate, 16_000), abs=1e-6)


def test_what_the_models_rate_cannot_hold_is_filtered_out() -> None:
    heard = decoded(saved(tone(2.0, RATE, 9_000)), 16_000)
    assert loudness_db(heard[1600:-1600]) < -40


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_several_channels_become_their_mean(channels: int) -> None:
    """S5."""
    one = tone(1.0, 16_000)
    same = np.stack([one] * channels, axis=1)
    assert decoded(saved(same, 16_000, subtype="FLOAT"), 16_000) == pytest.approx(one, abs=1e-6)
    alone = np.zeros_like(same)
    alone[:, 0] = one
    file = saved(alone, 16_000, subtype="FLOAT")
    heard = decoded(file, 16_000)
    assert heard == pytest.approx(one / channels, abs=1e-6)
    assert heard == pytest.approx(soundfile.read(io.BytesIO(file), always_2d=True)[0].mean(axis=1), abs=1e-6)


@pytest.mark.parametrize("container", ["WAV", "WAVEX"])
@pytest.mark.parametrize(
    "width",
    sweep(["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"], "PCM_U8", "PCM_16", "FLOAT"),
)
def test_every_width_of_a_wav_is_the_same_sound(container: str, width: str) -> None:
    """S14: with another chunk before the sound too."""
    sound = tone(1.0, 16_000)
    file = saved(sound, 16_000, container, width)
    listed = b"LIST\x06\x00\x00\x00INFOab"
    at = file.index(b"data")
    with_chunk = file[:4] + (len(file) - 8 + len(listed)).to_bytes(4, "little") + file[8:at] + listed + file[at:]
    tolerance = 1 / 32 if width in ("PCM_U8", "ULAW", "ALAW") else 1 / 30_000
    for one in (file, with_chunk):
        assert decoded(one, 16_000) == pytest.approx(sound, abs=tolerance)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 100, 10**9])
def test_a_wav_whose_header_lies_is_read_to_its_end(size: int) -> None:
    """As encoders leave it that write to a pipe. A size that is too small is believed: other chunks may follow."""
    file = bytearray(saved(tone(1.0, 16_000), 16_000))
    file[40:44] = size.to_bytes(4, "little")
    assert len(decoded(bytes(file), 16_000)) == (50 if size == 100 else 16_000)


def test_an_mp3_is_an_mp3_behind_a_tag_and_after_silence() -> None:
    """Of a variable bit rate, without a header that says so: libsndfile guesses its length, and stops there."""
    sound = joined(np.zeros(RATE * 10, np.float32), tone(10.0))
    file = recorded(sound, "mp3", "libmp3lame", options={"write_xing": "0", "id3v2_version": "3"})
    heard = decoded(file, 16_000)
    assert len(heard) == pytest.approx(20 * 16_000, rel=0.01)
    assert loudness_db(heard[: 9 * 16_000]) < -60
    assert peak_hertz(heard[11 * 16_000 :], 16_000) == pytest.approx(440, abs=1)
    tagged = b"ID3\x04\x00\x00\x00\x00\x02\x00" + b"\xff\xf1" * 128 + saved(tone(1.0), file_format="MP3")
    assert len(decoded(tagged, 16_000)) == pytest.approx(16_000, rel=0.05)


@pytest.mark.parametrize("samples", [0, 1, 160, 399, 400])
def test_hardly_any_sound_is_what_it_is(samples: int) -> None:
    """S17."""
    assert len(decoded(saved(tone(1.0, 16_000)[:samples], 16_000), 16_000)) == samples


@pytest.mark.parametrize("kind", sweep(FILES, "WAV", "MP3", "WebM of a browser"))
def test_a_file_that_is_cut_short_is_heard_as_far_as_it_goes(kind: str) -> None:
    whole = FILES[kind](tone(4.0))
    heard = decoded(whole[: len(whole) * 3 // 4], 16_000)
    assert 16_000 < len(heard) < 64_000


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"no audio",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"RIFF\x24\x00\x00\x00WAVEfmt ",
        b"OggS" + bytes(60),
        b"fLaC" + bytes(60),
        b"\x1a\x45\xdf\xa3" + bytes(60),
        b"\x00\x00\x00\x18ftypmp42" + bytes(60),
        b"\xff\xfb" + bytes(500),
        b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f",
    ],
)
def test_what_is_no_audio_is_invalid(file: bytes) -> None:
    with pytest.raises(InvalidAudio):
        decoded(file, 16_000)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3", "WebM of a browser", "MP4 of a browser"])
def test_a_longer_file_is_refused_as_soon_as_it_is(kind: str) -> None:
    with pytest.raises(InvalidAudio, match="longer than 2.5 s"):
        decoded(FILES[kind](tone(4.0)), 16_000, AudioLimits(seconds=2.5))


def test_rates_and_channels_beyond_the_limits_and_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(InvalidAudio, match="500 samples a second"):
        decoded(saved(tone(1.0, 500), 500), 16_000)
    with pytest.raises(InvalidAudio, match="65 channels"):
        decoded(saved(np.zeros((100, 65)), 16_000), 16_000)
    with pytest.raises(InvalidAudio, match="not finite"):
        decoded(saved(np.array([0, np.nan, 0]), 16_000, subtype="FLOAT"), 16_000)


def test_a_file_that_holds_only_pictures_is_no_audio(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "film.mp4"), "w") as film:
        stream = film.add_stream("mpeg4", rate=24)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = 64
        film.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        film.mux(stream.encode(None))
    with pytest.raises(InvalidAudio, match="no audio"):
        decoded((tmp_path / "film.mp4").read_bytes(), 16_000)


def test_eight_planes_are_refused_before_anything_reads_beyond_them() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="adts") as written:
        stream = written.add_stream("aac", rate=RATE, layout="7.1")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8 * 1024), np.float32), "flt", "7.1")
        frame.sample_rate = RATE
        for ready in av.AudioResampler("fltp", "7.1", RATE).resample(frame):
            written.mux(stream.encode(ready))
        written.mux(stream.encode(None))
    with pytest.raises(InvalidAudio, match="more than 7 channels"):
        decoded(file.getvalue(), 16_000)
