"""Long sound in pieces: nothing is lost, nothing is counted twice."""

import numpy as np
import pytest

from deployments.engines.audio.pieces import cut_at_quiet_places, is_silent, overlapping

RATE = 16_000


def test_pieces_join_to_the_whole_and_know_where_they_start() -> None:
    """S8: a start is the samples before it, not its number times 30 s."""
    sound = np.random.default_rng(1).normal(0, 0.2, 95 * RATE).astype(np.float32)
    for quiet_at in (29.2, 58.5):
        sound[round((quiet_at - 0.1) * RATE) : round((quiet_at + 0.1) * RATE)] = 0
    pieces = list(cut_at_quiet_places(sound, RATE))
    assert np.array_equal(np.concatenate([piece.samples for piece in pieces]), sound)
    assert [piece.start for piece in pieces] == [sum(len(p.samples) for p in pieces[:n]) for n in range(len(pieces))]
    assert all(len(piece.samples) <= 30 * RATE for piece in pieces)
    assert [pieces[1].start / RATE, pieces[2].start / RATE] == pytest.approx([29.2, 58.5], abs=0.1)


@pytest.mark.parametrize("samples", [0, 1, 479_999, 480_000])
def test_what_is_short_is_one_piece_and_one_window(samples: int) -> None:
    sound = np.zeros(samples, np.float32)
    [piece] = cut_at_quiet_places(sound, RATE)
    [window] = overlapping(sound, RATE, 320)
    assert len(piece.samples) == len(window.samples) == samples
    assert (window.left, window.right) == (0, None)


@pytest.mark.parametrize("seconds", [30.001, 49.9, 50.0, 50.1, 65.3, 200.0])
@pytest.mark.parametrize("ratio", [320, 640, 1280])
def test_the_frames_of_windows_are_those_of_the_whole(seconds: float, ratio: int) -> None:
    """Each frame once, where a frame is `ratio` samples and the whole has as many as fit."""
    sound = np.arange(round(seconds * RATE), dtype=np.int64)
    frames = [
        (window.samples[: len(window.samples) // ratio * ratio].reshape(-1, ratio)[:, 0])[window.left : window.right]
        for window in overlapping(sound, RATE, ratio)
    ]
    assert np.array_equal(np.concatenate(frames), sound[: len(sound) // ratio * ratio : ratio])


def test_silence_is_the_same_sample_throughout() -> None:
    assert is_silent(np.zeros(100, np.float32))
    assert is_silent(np.full(100, 0.25, np.float32))
    assert is_silent(np.zeros(0, np.float32))
    assert not is_silent(np.array([0, 0, 1e-4], np.float32))
