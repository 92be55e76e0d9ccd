"""Whisper beside transformers' own: languages, times, sound of any length, silence."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deployments.contract.errors import Cancelled, Internal, InvalidRequest
from deployments.contract.speech import SpeechSegment
from deployments.engines.audio.engine import load_engine
from deployments.engines.audio.transcript import SpeechOptions
from deployments.engines.audio.whisper import WhisperEngine
from tests.support import sweep
from tests.support.audio.expected import generated
from tests.support.audio.files import words
from tests.support.audio.models import whisper
from tests.support.audio.speaking import Straight, written

WINDOW_S = 4  # a window of 30 s takes as much longer to compute


def loaded(folder: Path) -> WhisperEngine:
    engine = load_engine(folder)
    assert isinstance(engine, WhisperEngine)
    return engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whisper(tmp_path_factory.mktemp("whisper") / "m", WINDOW_S)


@pytest.fixture(scope="module")
def engine(folder: Path) -> WhisperEngine:
    return loaded(folder)


def test_a_language_that_is_left_out_is_detected_and_told(folder: Path, engine: WhisperEngine) -> None:
    """S1: for each sound; the text is that of the detected language, and differs from English where that is another."""
    languages = set()
    for seed in (0, 3):
        sound = words(2.0, seed=seed)
        answer = written(engine, sound)
        assert answer.text == generated(folder, sound, task="transcribe")
        assert answer.language is not None
        languages.add(answer.language)
    assert len(languages) == 2
    assert written(engine, words(2.0, seed=3), language="fr").text != written(engine, words(2.0, seed=3)).text


@pytest.mark.parametrize(
    "asked", sweep(["fr", "FR", "fr-CA", "fr_FR", "French", "<|fr|>", "english"], "fr-CA", "english")
)
def test_a_language_is_a_code_or_its_english_name(folder: Path, engine: WhisperEngine, asked: str) -> None:
    """S22."""
    language = "en" if asked == "english" else "fr"
    answer = written(engine, words(2.0), language=asked)
    assert answer.language == language
    assert answer.text == generated(folder, words(2.0), task="transcribe", language=language)


@pytest.mark.parametrize("asked", ["it", "klingon", "e", "-", "🦜"])
def test_another_language_is_refused(engine: WhisperEngine, asked: str) -> None:
    with pytest.raises(InvalidRequest, match="none of this model"):
        written(engine, words(1.0), language=asked)


def test_translation_is_a_task(folder: Path, engine: WhisperEngine) -> None:
    answer = written(engine, words(2.0), language="de", translate=True)
    assert answer.text == generated(folder, words(2.0), task="translate", language="de")
    assert answer.language == "de"


@pytest.mark.parametrize("seconds", [3.9, 4.1, 9.0])
def test_sound_beyond_a_window_is_written_to_its_end(folder: Path, engine: WhisperEngine, seconds: float) -> None:
    """S2: the library's long form, which its own extractor cuts off by default."""
    sound, told = words(seconds), list[SpeechSegment]()
    answer = written(engine, sound, told)
    long = seconds > WINDOW_S
    options = {"return_timestamps": True} if long else {}
    assert answer.text == generated(folder, sound, long=long, task="transcribe", **options)
    if long:
        assert answer.segments[-1].end_s > WINDOW_S
        assert tuple(told) == answer.segments
        assert written(engine, sound, timestamps=True).segments == answer.segments
    else:
        assert [segment.text for segment in answer.segments] == [answer.text]


@pytest.mark.parametrize("seconds", [1.5, 11.3])
def test_segments_end_within_the_sound_and_follow_each_other(
    folder: Path, engine: WhisperEngine, seconds: float
) -> None:
    """S18: a window is filled up with zeros, in which the library still hears something."""
    answer = written(engine, words(seconds), timestamps=True)
    assert answer.segments
    starts = [segment.start_s for segment in answer.segments]
    assert starts == sorted(starts)
    assert all(0 <= segment.start_s <= segment.end_s <= seconds for segment in answer.segments)
    whole = generated(folder, words(seconds), long=seconds > WINDOW_S, task="transcribe", return_timestamps=True)
    assert whole.startswith(answer.text)


def test_segments_come_while_later_windows_are_not_yet_computed(engine: WhisperEngine) -> None:
    told: list[SpeechSegment] = []
    between: list[int] = []

    class Watching(Straight):
        def pause(self) -> None:
            between.append(len(told))

    engine.transcribe(words(20.0), SpeechOptions(), told.append, Watching())
    assert between[0] == 0
    assert 0 < between[1] < len(told)


def test_a_request_that_is_over_ends_at_its_next_token(engine: WhisperEngine) -> None:
    class Leaving(Straight):
        tokens = 0

        def check(self) -> None:
            self.tokens += 1
            if self.tokens == 3:
                raise Cancelled("over")

    leaving = Leaving()
    with pytest.raises(Cancelled):
        engine.transcribe(words(20.0), SpeechOptions(), lambda _: None, leaving)
    assert leaving.tokens == 3
    assert written(engine, words(1.0)).text


@pytest.mark.slow
def test_two_requests_that_take_turns_window_by_window_do_not_mix(folder: Path, engine: WhisperEngine) -> None:
    sounds = [words(17.0, seed=seed) for seed in (1, 2)]
    alone = [written(engine, sound, language=code) for sound, code in zip(sounds, ("fr", "de"), strict=True)]
    lock, answers = threading.Lock(), [None, None]

    class Turning(Straight):
        def pause(self) -> None:
            lock.release()
            lock.acquire()

    def write(which: int) -> None:
        with lock:
            options = SpeechOptions(language=("fr", "de")[which])
            answers[which] = engine.transcribe(sounds[which], options, lambda _: None, Turning())  # type: ignore[call-overload]

    threads = [threading.Thread(target=write, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == alone


def silent(model: Any, number: dict[str, int]) -> None:
    """Every frame is most probably no speech, and every text is improbable."""
    with torch.no_grad():
        direction = torch.zeros(model.config.d_model)
        direction[0] = 1.0
        model.model.decoder.layer_norm.bias[:] = 8 * direction
        model.get_input_embeddings().weight[:] *= 0.01
        model.get_input_embeddings().weight[:, 0] = 0
        model.get_input_embeddings().weight[number["<|nospeech|>"]] = 8 * direction


def test_a_window_that_the_model_takes_for_silence_has_no_text(tmp_path: Path) -> None:
    """S7: greedy decoding alone never chooses the token that says so."""
    folder = whisper(tmp_path / "m", WINDOW_S, change=silent)
    engine = loaded(folder)
    noise = np.random.default_rng(1).normal(0, 0.001, 16_000 * 5).astype(np.float32)
    assert generated(folder, noise[: 3 * 16_000], task="transcribe")
    for sound in (noise[: 3 * 16_000], noise):
        answer = written(engine, sound, timestamps=True)
        assert (answer.text, answer.segments) == ("", ())
    assert written(engine, noise[: 3 * 16_000]).text == ""


def test_digital_silence_and_hardly_any_sound_have_no_text_or_a_short_one(engine: WhisperEngine) -> None:
    """S7, S17."""
    assert written(engine, np.zeros(5 * 16_000, np.float32)).text == ""
    for samples in (0, 1, 160, 399, 400):
        assert isinstance(written(engine, words(1.0)[:samples]).text, str)


def test_an_english_model_takes_english_and_nothing_else(tmp_path: Path) -> None:
    """S15."""
    folder = whisper(tmp_path / "m", WINDOW_S, languages=[])
    engine = loaded(folder)
    for language in (None, "en", "English"):
        answer = written(engine, words(2.0), language=language)
        assert answer.text == generated(folder, words(2.0))
        assert answer.language == "en"
    with pytest.raises(InvalidRequest, match="English only"):
        written(engine, words(1.0), language="fr")
    with pytest.raises(InvalidRequest, match="does not translate"):
        written(engine, words(1.0), translate=True)


@pytest.mark.parametrize("where", sweep(["generation_config.json", "config.json"], "generation_config.json"))
def test_a_folders_own_language_is_kept_and_a_requests_goes_first(tmp_path: Path, where: str) -> None:
    """S21: old fine-tunes force tokens, also in config.json."""
    folder = whisper(tmp_path / "m", WINDOW_S)
    numbers = json.loads((folder / "generation_config.json").read_text())
    forced = [[1, numbers["lang_to_id"]["<|es|>"]], [2, numbers["task_to_id"]["translate"]]]
    changed = json.loads((folder / where).read_text()) | {"forced_decoder_ids": forced}
    (folder / where).write_text(json.dumps(changed))
    engine = loaded(folder)
    answer = written(engine, words(2.0))
    assert answer.language == "es"
    assert answer.text == generated(folder, words(2.0), language="es", task="translate")
    assert written(engine, words(2.0), language="fr").language == "fr"


def test_the_number_of_mel_bins_is_the_folders(tmp_path: Path) -> None:
    """S23."""
    folder = whisper(tmp_path / "m", WINDOW_S, mels=128)
    assert written(loaded(folder), words(2.0)).text == generated(folder, words(2.0), task="transcribe")


def test_a_window_is_encoded_once(engine: WhisperEngine) -> None:
    """Though the library asks for it for the language, for silence and for the text."""
    convolution: Any = engine._model.model.encoder.conv1
    calls: list[int] = []
    hook = convolution.register_forward_hook(lambda *_: calls.append(1))
    try:
        written(engine, words(2.0))
        written(engine, words(2.0, seed=1))
    finally:
        hook.remove()
    assert len(calls) == 2


def test_a_closed_model_answers_with_an_error(tmp_path: Path) -> None:
    engine = loaded(whisper(tmp_path / "m", WINDOW_S))
    assert engine.resident_bytes > 0
    engine.close()
    assert engine.resident_bytes == 0
    with pytest.raises(Internal):
        engine.transcribe(words(1.0), SpeechOptions(), lambda _: None, Straight())


def _old(change: Callable[[dict[str, Any]], None], folder: Path) -> None:
    file = folder / "generation_config.json"
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def test_a_folder_that_names_no_times_is_served_without_them(tmp_path: Path) -> None:
    folder = whisper(tmp_path / "m", WINDOW_S)
    _old(lambda values: values.pop("no_timestamps_token_id"), folder)
    engine = loaded(folder)
    assert written(engine, words(2.0)).text == generated(folder, words(2.0), task="transcribe")
    with pytest.raises(InvalidRequest, match="gives no times"):
        written(engine, words(1.0), timestamps=True)
