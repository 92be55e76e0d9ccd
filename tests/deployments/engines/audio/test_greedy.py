"""Clips that share the decoder's steps write what transformers' own loop writes of each alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.engines.audio.engine import load_engine
from deployments.engines.audio.greedy import SHARED_BYTES, Clip
from deployments.engines.audio.torch_decoder import TorchDecoder
from deployments.engines.audio.transcript import SpeechOptions
from deployments.engines.audio.whisper import WhisperEngine
from tests.support import sweep
from tests.support.audio.expected import generated
from tests.support.audio.files import words
from tests.support.audio.models import whisper

SOUNDS = [words(1.0 + seed % 3, seed=seed) for seed in range(5)]


def loaded(folder: Path) -> WhisperEngine:
    engine = load_engine(folder)
    assert isinstance(engine, WhisperEngine)
    return engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whisper(tmp_path_factory.mktemp("greedy") / "m", 4)


@pytest.fixture(scope="module")
def engine(folder: Path) -> WhisperEngine:
    return loaded(folder)


def made(engine: WhisperEngine, samples: np.ndarray, **options: Any) -> Clip:
    clip = engine.clip(samples, SpeechOptions(**options))
    assert clip is not None
    return clip


def alone(engine: WhisperEngine, samples: np.ndarray, **options: Any) -> str:
    clip = made(engine, samples, **options)
    engine.begin(clip)
    while not clip.done:
        engine.step([clip])
    return engine.written(clip, 1.0).text


@pytest.mark.parametrize("options", sweep([{}, {"language": "fr"}, {"language": "de", "translate": True}], {}))
def test_a_clip_is_written_as_the_library_writes_it(
    folder: Path, engine: WhisperEngine, options: dict[str, Any]
) -> None:
    task = "translate" if options.get("translate") else "transcribe"
    named = {name: value for name, value in options.items() if name == "language"}
    texts = [alone(engine, sound, **options) for sound in SOUNDS]
    assert texts == [generated(folder, sound, task=task, **named) for sound in SOUNDS]
    assert len(set(texts)) > 1


def test_clips_that_join_between_steps_are_written_as_alone(engine: WhisperEngine) -> None:
    known = [alone(engine, sound) for sound in SOUNDS]
    clips = [made(engine, sound) for sound in SOUNDS]
    waiting, together = list(clips), 0
    while not all(clip.done for clip in clips):
        if waiting:
            engine.begin(waiting.pop())
        under_way = [clip for clip in clips if clip.tokens and not clip.done]
        together = max(together, len(under_way))
        if under_way:
            engine.step(under_way)
    assert [engine.written(clip, 1.0).text for clip in clips] == known
    assert together > 2
    assert max(clip.together for clip in clips) == together
    assert not any(clip.keys for clip in clips)


def test_a_clip_that_is_detected_tells_its_language(engine: WhisperEngine) -> None:
    clip = made(engine, SOUNDS[0])
    assert None in clip.prompt
    engine.begin(clip)
    assert None not in clip.prompt
    assert engine.written(clip, 1.0).language in ("en", "fr", "de", "es")


LIMITS: list[dict[str, Any]] = [{"max_new_tokens": 7, "max_length": None}, {"max_length": 12}, {"max_length": 500}]


@pytest.mark.parametrize("limit", sweep(LIMITS, LIMITS[0]))
def test_a_folders_limit_of_tokens_is_counted_as_the_library_counts_it(tmp_path: Path, limit: dict[str, Any]) -> None:
    folder = whisper(tmp_path / "m", 4, generation=limit)
    assert alone(loaded(folder), SOUNDS[1], language="en") == generated(
        folder, SOUNDS[1], task="transcribe", language="en"
    )


def test_what_it_does_not_do_is_left_to_the_librarys_loop(tmp_path: Path, engine: WhisperEngine) -> None:
    assert engine.clip(SOUNDS[0], SpeechOptions(timestamps=True)) is None
    assert engine.clip(words(5.0), SpeechOptions()) is None  # beyond the window
    assert engine.clip(np.zeros(16_000, np.float32), SpeechOptions()) is None
    with_beams = loaded(whisper(tmp_path / "beams", 4, generation={"num_beams": 2}))
    assert with_beams.clip(SOUNDS[0], SpeechOptions()) is None
    assert with_beams.most_clips == 0


def test_a_decoder_that_writes_something_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = TorchDecoder.forward
    monkeypatch.setattr(TorchDecoder, "forward", lambda *given: -forward(*given))
    assert loaded(whisper(tmp_path / "m", 4)).most_clips == 0


def test_the_clips_that_share_steps_are_bounded_by_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip_bytes = 2 * 2 * 4 * 32 * (4 * 50 + 64)
    monkeypatch.setattr("deployments.engines.audio.greedy.SHARED_BYTES", 3 * clip_bytes)
    assert loaded(whisper(tmp_path / "m", 4)).most_clips == 3
    assert 3 * clip_bytes < SHARED_BYTES


@pytest.mark.parametrize("found", [["slow", "slow", None], ["slow", "slow", "slow"], [None]])
def test_a_network_is_measured_again_before_it_is_called_no_faster(
    engine: WhisperEngine, monkeypatch: pytest.MonkeyPatch, found: list[str | None]
) -> None:
    greedy, said = engine._greedy, list(found)
    assert greedy is not None
    monkeypatch.setattr("deployments.engines.audio.greedy.no_faster", lambda before, after: said.pop(0))
    sounds = [engine._features(SOUNDS[0])[0]]
    assert greedy.fault(greedy.network, sounds, engine._prompt(SpeechOptions())) == found[-1]
    assert said == []


def test_a_clip_is_encoded_again_where_its_time_is_measured(engine: WhisperEngine) -> None:
    encoded: list[Any] = []
    hook = engine._model.get_encoder().conv1.register_forward_hook(lambda *given: encoded.append(given))
    for _ in range(2):
        engine.begin(made(engine, SOUNDS[0]))
    hook.remove()
    assert len(encoded) == 2
