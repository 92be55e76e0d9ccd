"""The row of SpeechToText: which models it serves, its golden examples, what it prints."""

from pathlib import Path
from typing import Any

import pytest

from deployments.contract.speech import SpeechSegment
from deployments.contract.types import ImageClassificationResult, SpeechToText, SpeechToTextResult
from deployments.families.speech_to_text.family import SPEECH_TO_TEXT, GoldenSpeech, lacks, matches
from deployments.families.table import FAMILIES
from deployments.replica.family import model_formats
from deployments.repository.families import family_of
from deployments.repository.manifest import Manifest

FILES = {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"}


@pytest.mark.parametrize(
    ("config", "served"),
    [
        ({"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper"}, True),
        ({"architectures": ["MoonshineForConditionalGeneration"]}, True),
        ({"architectures": ["Speech2TextForConditionalGeneration"]}, True),
        ({"architectures": ["Wav2Vec2ForCTC"]}, True),
        ({"architectures": ["ParakeetForCTC"]}, True),
        ({"architectures": ["VoxtralForConditionalGeneration"]}, True),
        ({"architectures": ["Wav2Vec2ForSequenceClassification"]}, False),
        ({"architectures": ["T5ForConditionalGeneration"]}, False),
        ({}, False),
    ],
)
def test_it_serves_speech_models_by_their_architecture(config: dict[str, Any], served: bool) -> None:
    assert matches(config) == served
    if served:
        assert family_of(Manifest(), config, model_formats(FAMILIES)) == "speech_to_text"


@pytest.mark.parametrize(
    ("architecture", "names", "reason"),
    [
        ("Wav2Vec2ForCTC", FILES, None),
        ("Wav2Vec2ForCTC", FILES - {"preprocessor_config.json"}, "no preprocessor_config.json"),
        ("Wav2Vec2ForCTC", FILES - {"tokenizer.json"}, "no tokenizer"),
        ("DiaForConditionalGeneration", FILES, "DiaForConditionalGeneration is not among the speech models"),
        ("Qwen3ASRForConditionalGeneration", FILES, "Qwen3ASRForConditionalGeneration is not among"),
        ("ParakeetForTDT", FILES, "ParakeetForTDT is not among"),
    ],
)
def test_what_cannot_be_served_is_told_by_its_name(architecture: str, names: set[str], reason: str | None) -> None:
    lacking = lacks({"architectures": [architecture]}, names)
    assert (reason or "") in (lacking or "")
    assert (lacking is None) == (reason is None)


def test_a_golden_example_is_a_sound_file_of_the_model_and_its_text(tmp_path: Path) -> None:
    (tmp_path / "hello.wav").write_bytes(b"sound")
    golden = GoldenSpeech(audio="hello.wav", text="hello", language="en", task="transcribe")
    request = SpeechToText(model_id="m", audio_data=b"sound", language="en", task="transcribe")
    assert golden.request("m", tmp_path) == request
    assert golden.title == "hello.wav"
    assert golden.fault(SpeechToTextResult(text="hello")) is None
    assert golden.fault(SpeechToTextResult(text="hallo")) == "'hallo' instead of 'hello'"
    other = ImageClassificationResult(class_labels=[], probabilities=[])
    assert golden.fault(other) == "answered with ImageClassificationResult"


def test_the_command_prints_the_text_or_its_parts_with_their_times() -> None:
    command = SPEECH_TO_TEXT.client
    assert command
    segments = [SpeechSegment(start_s=0, end_s=1.5, text="Hello"), SpeechSegment(start_s=61.25, end_s=62, text="you")]
    assert command.shown(SpeechToTextResult(text="Hello you")) == "Hello you"
    shown = command.shown(SpeechToTextResult(text="Hello you", segments=segments))
    assert shown == "    0.00     1.50  Hello\n   61.25    62.00  you"
