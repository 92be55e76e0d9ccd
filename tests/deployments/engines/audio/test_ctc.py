"""CTC models beside transformers' own: each architecture, long sound, batches, silence."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.contract.errors import InvalidRequest, ServingError
from deployments.contract.speech import SpeechSegment
from deployments.engines.audio.ctc import CtcEngine
from deployments.engines.audio.engine import load_engine
from tests.support import sweep
from tests.support.audio.expected import frames, spelled
from tests.support.audio.files import words
from tests.support.audio.models import CTC, LAYER, ctc, moonshine, speech_to_text
from tests.support.audio.speaking import written

CONVOLVING = sorted(set(CTC) - {"wav2vec2-bert", "parakeet_ctc", "lasr_ctc"})


def loaded(folder: Path) -> CtcEngine:
    engine = load_engine(folder)
    assert isinstance(engine, CtcEngine)
    return engine


class Tiny(dict[str, Any]):
    """An engine for each type, loaded when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __missing__(self, name: str) -> Any:
        make = {"moonshine": moonshine, "speech_to_text": speech_to_text}.get(name, partial(ctc, model_type=name))
        self[name] = load_engine(make(self.root / name))
        return self[name]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("ctc")
    return {"group": ctc(root / "group"), "layer": ctc(root / "layer", "wav2vec2", **LAYER)}


@pytest.mark.parametrize("model_type", sweep(CTC, "wav2vec2", "parakeet_ctc"))
def test_every_architecture_writes_what_transformers_does(tmp_path: Path, model_type: str) -> None:
    folder = ctc(tmp_path / "m", model_type)
    engine = loaded(folder)
    assert engine.resident_bytes > 0
    for seed in range(2):
        sound = words(2.3, seed=seed)
        assert written(engine, sound).text == spelled(folder, frames(folder, sound))


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_long_sound_goes_through_in_windows_that_see_what_is_beside_them(folders: dict[str, Path], kind: str) -> None:
    """S2, S8: the frames of 30 s windows, a sixth of which at each side is left to their neighbours."""
    sound, told = words(65.0), list[SpeechSegment]()
    answer = written(loaded(folders[kind]), sound, told, timestamps=True, words=True)
    second = 16_000
    parts = [
        frames(folders[kind], sound[: 30 * second])[:1250],
        frames(folders[kind], sound[20 * second : 50 * second])[250:1250],
        frames(folders[kind], sound[40 * second :])[250:],
    ]
    whole = np.concatenate(parts)
    assert len(whole) == len(frames(folders[kind], sound))
    assert answer.text == spelled(folders[kind], whole)
    assert [word.text for word in answer.words] == answer.text.split()
    starts = [word.start_s for word in answer.words]
    assert starts == sorted(starts)
    assert answer.words[-1].end_s <= 65
    assert tuple(told) == answer.segments[: len(told)]


def test_segments_come_before_the_end_and_each_once(folders: dict[str, Path]) -> None:
    """Silence between them: each ends at a pause."""
    sound = words(65.0)
    for start in (12, 33, 50):
        sound[start * 16_000 : (start + 4) * 16_000] = 0
    engine, told = loaded(folders["group"]), list[SpeechSegment]()
    reader = engine.reader()
    for window in engine.windows(sound):
        [given] = engine.run([window])
        told += reader.feed(window, given)
    answer = reader.end()
    assert tuple(told) == answer.segments[: len(told)]
    assert " ".join(segment.text for segment in answer.segments).split() == answer.text.split()


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_a_text_does_not_depend_on_its_neighbours(folders: dict[str, Path], kind: str) -> None:
    """S12: with group norms only equal lengths share a forward; with layer norms and a mask similar ones do."""
    engine = loaded(folders[kind])
    sounds = [words(seconds, seed=n) for n, seconds in enumerate((1.0, 1.4, 1.9, 2.0, 15.0, 1.0, 0.01))]
    windows = [window for sound in sounds for window in engine.windows(sound)]
    together = engine.run(windows)
    for sound, given in zip(sounds, together, strict=True):
        assert not isinstance(given, ServingError)
        alone = frames(folders[kind], sound) if len(sound) >= 400 else np.zeros(0)
        assert np.array_equal(given, alone)
    shapes = [window.shape for window in windows]
    assert len(set(shapes)) == (3 if kind == "layer" else 6)


@pytest.mark.parametrize(
    "model_type",
    sweep([*CONVOLVING, "wav2vec2-bert", "parakeet_ctc", "moonshine", "speech_to_text"], "wav2vec2", "moonshine"),
)
@pytest.mark.parametrize("samples", [0, 1, 160, 399, 400])
def test_hardly_any_sound_is_no_text_and_no_failure(tiny: Tiny, model_type: str, samples: int) -> None:
    """S17."""
    assert isinstance(written(tiny[model_type], words(1.0)[:samples]).text, str)


@pytest.mark.parametrize(
    "model_type", sweep(["wav2vec2", "parakeet_ctc", "moonshine", "speech_to_text"], "wav2vec2", "moonshine")
)
def test_silence_has_no_text(tiny: Tiny, model_type: str) -> None:
    """S7."""
    for seconds in (1, 40):
        answer = written(tiny[model_type], np.zeros(seconds * 16_000, np.float32))
        assert (answer.text, answer.segments) == ("", ())


@pytest.mark.parametrize("model_type", sweep(["wav2vec2-bert", "lasr_ctc", "moonshine"], "moonshine"))
def test_models_of_whole_pieces_get_long_sound_cut_at_quiet_places(tiny: Tiny, model_type: str) -> None:
    sound = words(47.0) + np.random.default_rng(1).normal(0, 0.05, 47 * 16_000).astype(np.float32)
    sound[28 * 16_000 : 29 * 16_000] = 0
    engine = tiny[model_type]
    first, second = engine.windows(sound)
    assert second.start / 16_000 == pytest.approx(28.5, abs=0.6)
    answer = written(engine, sound, timestamps=True)
    parts = [written(engine, window.samples, timestamps=True) for window in (first, second)]
    assert answer.text == " ".join(part.text for part in parts if part.text)
    later = answer.segments[len(parts[0].segments)]
    assert later.start_s == pytest.approx(parts[1].segments[0].start_s + second.start / 16_000, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"language": "en"}, "no languages"), ({"translate": True}, "transcribes only")],
)
def test_languages_and_translation_are_refused(tiny: Tiny, options: dict[str, Any], reason: str) -> None:
    for model_type in ("wav2vec2", "moonshine"):
        with pytest.raises(InvalidRequest, match=reason):
            written(tiny[model_type], words(1.0), **options)
    with pytest.raises(InvalidRequest, match="not of words"):
        written(tiny["moonshine"], words(1.0), words=True)


def test_numbers_that_are_not_finite_are_an_error_of_that_window(folders: dict[str, Path]) -> None:
    engine = loaded(folders["group"])
    engine._model.lm_head.bias.data[:] = float("nan")
    [given] = engine.run(list(engine.windows(words(1.0))))
    assert isinstance(given, ServingError)
    assert given.code == "internal"
    engine.close()
    assert engine.resident_bytes == 0
