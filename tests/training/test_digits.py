"""What the recogniser of digits is trained on is what its processor will make of a recording."""

import io
import zipfile
from pathlib import Path

import numpy as np
import soundfile
import torch

from training.digits import HEARD_HZ, RATE, Recording, load_recordings, log_mels, masked, noise, resampled, spoken
from training.train_spoken_digits import (
    TOKENS,
    batch_of,
    batches,
    build_extractor,
    build_model,
    heard_bands,
    text_of,
    token_ids,
)


def recording(seconds: float, digit: int = 7) -> Recording:
    time = np.arange(int(8_000 * seconds)) / 8_000
    tone = np.sin(440 * 2 * np.pi * time * (1 + time)) / 2
    return Recording(digit, "nobody", 3, np.asarray(tone, np.float32), 8_000)


def test_the_archive_names_what_is_said(tmp_path: Path) -> None:
    archive = tmp_path / "digits.zip"
    wav = io.BytesIO()
    soundfile.write(wav, np.zeros(80), 8_000, format="WAV")
    with zipfile.ZipFile(archive, "w") as files:
        for name in ("test/7_theo_3.wav", "train/2_theo_9.wav"):
            files.writestr(name, wav.getvalue())
    [found] = load_recordings(archive, "test")
    assert (found.word, found.speaker, found.number, found.rate, len(found.samples)) == ("seven", "theo", 3, 8_000, 80)


def test_the_spectrogram_is_the_extractors() -> None:
    extractor = build_extractor()
    samples = resampled(recording(0.6)) + 0.01 * noise(9_600, np.random.default_rng(0))
    wanted = extractor(samples, sampling_rate=RATE, return_tensors="pt")
    made = batch_of([log_mels(samples, extractor)])
    torch.testing.assert_close(made["input_features"], wanted["input_features"], atol=1e-4, rtol=1e-4)
    assert torch.equal(made["attention_mask"], wanted["attention_mask"].long())


def test_what_lies_above_4_khz_has_no_weight() -> None:
    extractor = build_extractor()
    heard = heard_bands(extractor)
    hertz = np.linspace(0, RATE / 2, len(extractor.mel_filters))
    assert extractor.mel_filters[hertz >= HEARD_HZ, :heard].sum() == 0
    assert extractor.mel_filters[hertz < HEARD_HZ, heard + 2 :].sum() == 0
    weight = build_model(heard).wav2vec2_bert.feature_projection.projection.weight.view(-1, 2, 80)
    assert not weight[:, :, heard:].any()
    assert weight[:, :, :heard].all(-1).any()


def test_every_recording_is_read_once() -> None:
    recordings = [recording(0.2, digit) for digit in range(10)] * 5
    made = [one for batch in batches(recordings, 0.4, np.random.default_rng(0)) for group in batch for one in group]
    assert 34 <= len(made) <= 50  # the last batch is left out where it is small
    assert max(sum(one is other for other in made) for one in recordings) <= 5


def test_varied_speech_is_whole_and_seeded() -> None:
    samples = spoken([recording(0.3), recording(0.4)], np.random.default_rng(1))
    assert np.array_equal(samples, spoken([recording(0.3), recording(0.4)], np.random.default_rng(1)))
    assert len(samples) >= 0.7 / 1.2 * RATE
    assert np.isfinite(samples).all()
    mels = log_mels(samples, build_extractor())
    assert masked(mels, 59, np.random.default_rng(2)).shape == mels.shape


def test_letters_come_back_without_blanks_and_repeats() -> None:
    ids = token_ids("three").tolist()
    assert text_of([0, *ids[:4], 0, 0, *ids[4:], 0]) == "three"
    assert text_of(ids) == "thre"
    assert text_of([TOKENS.index("|"), *token_ids("one two").tolist()]) == "one two"
