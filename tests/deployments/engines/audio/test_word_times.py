"""The times of Whisper's words are those that transformers' pipeline gives."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.contract.errors import InvalidRequest
from deployments.engines.audio.engine import load_engine
from deployments.engines.audio.transcript import SpeechOptions
from deployments.engines.audio.whisper import WhisperEngine
from tests.support import sweep
from tests.support.audio.expected import Words, timed_words, timed_words_of_segments
from tests.support.audio.files import words
from tests.support.audio.models import whisper
from tests.support.audio.speaking import Straight, written

WINDOW_S = 4
HEADS = [[1, 0], [0, 1], [1, 1]]


def saved(folder: Path, **options: Any) -> Path:
    return whisper(folder, WINDOW_S, **{"letters": " .,abcdefgh", "generation": {"alignment_heads": HEADS}} | options)


def loaded(folder: Path) -> WhisperEngine:
    engine = load_engine(folder)
    assert isinstance(engine, WhisperEngine)
    return engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("words") / "m")


@pytest.fixture(scope="module")
def engine(folder: Path) -> WhisperEngine:
    return loaded(folder)


def timed(engine: WhisperEngine, sound: np.ndarray, **options: Any) -> Words:
    answer = written(engine, sound, timestamps=True, words=True, **options)
    return [(word.text, word.start_s, word.end_s) for word in answer.words]


@pytest.mark.slow
def test_words_and_their_times_are_those_of_the_librarys_pipeline(folder: Path, engine: WhisperEngine) -> None:
    sounds = [words(seconds, seed=seed) for seconds in (1.5, 2.0, 3.9) for seed in range(2)]
    found = [timed(engine, sound, language="fr") for sound in sounds]
    assert found == [timed_words(folder, sound, language="fr", task="transcribe") for sound in sounds]
    assert sum(map(len, found)) > 9
    assert any(0.5 < start < end for some in found for _, start, end in some)


@pytest.mark.parametrize("seconds", sweep([9.0, 13.0], 9.0))
def test_the_times_of_several_windows_follow_each_other_to_the_end_of_the_sound(
    folder: Path, engine: WhisperEngine, seconds: float
) -> None:
    """Without what is written into the zeros that fill up the last one."""
    for seed in range(2):
        sound = words(seconds, seed=seed)
        found = timed(engine, sound, language="en")
        assert found == timed_words_of_segments(folder, sound, language="en", task="transcribe")[: len(found)]
        starts = [start for _, start, _ in found]
        assert starts == sorted(starts)
        assert starts[-1] > seconds - WINDOW_S
        assert all(0 <= start <= end <= seconds for _, start, end in found)


def test_the_words_of_segments_are_their_text(engine: WhisperEngine) -> None:
    answer = written(engine, words(9.0), timestamps=True, words=True)
    segments = written(engine, words(9.0), timestamps=True)
    assert (answer.text, answer.segments, segments.words) == (segments.text, segments.segments, ())
    assert "".join(word.text for word in answer.words) == answer.text.replace(" ", "")


def test_a_language_without_spaces_has_a_word_for_each_character(tmp_path: Path) -> None:
    """As the library splits it where it is told the language, which its pipeline is not by default."""
    engine = loaded(saved(tmp_path / "m", languages=["en", "ja"], letters="abcdefgh"))
    sound = words(3.0)
    assert {len(word) for word, _, _ in timed(engine, sound, language="ja")} == {1}
    assert max(len(word) for word, _, _ in timed(engine, sound, language="en")) > 1


@pytest.mark.slow
def test_two_requests_that_take_turns_window_by_window_do_not_mix(engine: WhisperEngine) -> None:
    sounds = [words(13.0, seed=seed) for seed in (1, 2)]
    alone = [written(engine, sound, timestamps=True, words=which == 0) for which, sound in enumerate(sounds)]
    lock, answers = threading.Lock(), [alone[0]] * 2

    class Turning(Straight):
        def pause(self) -> None:
            lock.release()
            lock.acquire()

    def write(which: int) -> None:
        with lock:
            options = SpeechOptions(timestamps=True, words=which == 0)
            answers[which] = engine.transcribe(sounds[which], options, lambda _: None, Turning())

    threads = [threading.Thread(target=write, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == alone


def test_fused_attention_and_one_encoding_are_kept(engine: WhisperEngine) -> None:
    """The library would encode with another attention from then on, and for every later request."""
    model: Any = engine._model
    calls: list[int] = []
    hook = model.model.encoder.conv1.register_forward_hook(lambda *_: calls.append(1))
    try:
        timed(engine, words(2.0))
    finally:
        hook.remove()
    attentions = {layer.encoder_attn.config._attn_implementation for layer in model.model.decoder.layers}
    assert (len(calls), attentions, model.config._attn_implementation) == (1, {"sdpa"}, "sdpa")


@pytest.mark.parametrize(
    ("heads", "reason"),
    [
        (None, "names no alignment_heads"),
        ([], "names no alignment_heads"),
        ([[0, 0], [2, 1]], r"alignment_heads name \[2, 1\], which it has not"),
    ],
)
def test_a_folder_whose_heads_are_not_known_is_served_without_times_of_words(
    tmp_path: Path, heads: list[list[int]] | None, reason: str
) -> None:
    """As the library, which raises for the first; a fine-tuned model may have those of another size."""
    engine = loaded(saved(tmp_path / "m", generation={"alignment_heads": heads}))
    assert written(engine, words(2.0), timestamps=True).segments
    with pytest.raises(InvalidRequest, match=f"not of words, as .*{reason}: ask for 'segment'"):
        timed(engine, words(2.0))
