"""The row of the SpeechToText family. Imports neither torch nor Ray."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from deployments.contract.errors import quoted
from deployments.contract.settings import Autoscaling, FamilySettings
from deployments.contract.types import InferResponse, SpeechToText, SpeechToTextResult
from deployments.replica.family import Argument, Command, Family, Form
from deployments.repository.families import architectures
from deployments.repository.manifest import FileName
from deployments.validation.golden import GoldenExample, content_of

GENERATING = {
    "WhisperForConditionalGeneration",
    "MoonshineForConditionalGeneration",
    "Speech2TextForConditionalGeneration",
}
"""Architectures that write a text. The library's list of such models has ones that speak and make music too."""
NOT_SERVED = {
    "CanaryForConditionalGeneration",
    "CohereAsrForConditionalGeneration",
    "DiaForConditionalGeneration",
    "FunAsrNanoForConditionalGeneration",
    "GraniteSpeechForConditionalGeneration",
    "GraniteSpeechPlusForConditionalGeneration",
    "KyutaiSpeechToTextForConditionalGeneration",
    "MoonshineStreamingForConditionalGeneration",
    "ParakeetForRNNT",
    "ParakeetForTDT",
    "Pop2PianoForConditionalGeneration",
    "Qwen3ASRForConditionalGeneration",
    "SeamlessM4TForSpeechToText",
    "SeamlessM4Tv2ForSpeechToText",
    "SpeechEncoderDecoderModel",
    "SpeechT5ForSpeechToText",
    "VibeVoiceAsrForConditionalGeneration",
    "VoxtralForConditionalGeneration",
    "VoxtralRealtimeForConditionalGeneration",
}
TOKENIZERS = {"tokenizer.json", "vocab.json", "tokenizer_config.json", "sentencepiece.bpe.model"}


class SpeechToTextOptions(FamilySettings):
    """The settings of a speech deployment. It has no replica until the first request."""

    autoscaling: Autoscaling = Autoscaling(min_replicas=0)
    deadline_s: Annotated[float, Field(gt=0)] = 300
    max_audio_s: Annotated[float, Field(gt=0)] = 1800
    """Longer audio is refused as soon as so much of it is decoded."""
    audio_budget_mb: Annotated[int, Field(ge=1)] = 512
    """What the decoded audio in one replica may take together; further requests wait."""


class GoldenSpeech(GoldenExample):
    """A sound file and what is said in it."""

    audio: FileName
    """A file of the model's folder."""
    text: str
    language: str | None = None
    """The request's."""
    task: Literal["transcribe", "translate"] | None = None
    """The request's."""

    @property
    def title(self) -> str:
        return self.audio

    def request(self, model_id: str, folder: Path) -> SpeechToText:
        audio_data = content_of(folder, self.audio, "audio")
        return SpeechToText(model_id=model_id, audio_data=audio_data, language=self.language, task=self.task)

    def fault(self, answer: InferResponse) -> str | None:
        if not isinstance(answer, SpeechToTextResult):
            return f"answered with {type(answer).__name__}"
        if answer.text != self.text:
            return f"{quoted(answer.text)} instead of {quoted(self.text)}"
        return None


def matches(config: Mapping[str, object]) -> bool:
    """Also speech models that are not served, so that they are refused by their name."""
    return any(name in GENERATING | NOT_SERVED or name.endswith("ForCTC") for name in architectures(config))


def lacks(config: Mapping[str, object], names: Collection[str]) -> str | None:
    if refused := sorted(NOT_SERVED.intersection(architectures(config))):
        served = "Whisper, Moonshine, Speech2Text and CTC models"
        return f"{refused[0]} is not among the speech models that are served: {served}"
    if not {"preprocessor_config.json", "processor_config.json"} & set(names):
        return "there is no preprocessor_config.json: add it from where the weights came from"
    if not TOKENIZERS & set(names):
        return "there is no tokenizer: add its files from where the weights came from"
    return None


def _shown(result: SpeechToTextResult) -> str:
    parts = result.words or result.segments
    if parts is None:
        return result.text
    return "\n".join(f"{part.start_s:8.2f} {part.end_s:8.2f}  {part.text}" for part in parts)


SPEECH_TO_TEXT = Family(
    name="speech_to_text",
    request=SpeechToText,
    result=SpeechToTextResult,
    deployment="deployments.families.speech_to_text.replica:SpeechToTextReplica",
    options=SpeechToTextOptions,
    matches=matches,
    work=lambda request: len(request.audio_data),  # the file's bytes stand for its seconds
    golden=GoldenSpeech,
    lacks=lacks,
    form=Form(SpeechToText, file="audio", field="audio_data"),
    client=Command(
        "speech",
        "write down what is said in a sound file",
        (
            Argument("file", "audio_data", Path),
            Argument("--language", "language", help='a code such as "de" (default: the model detects it)'),
            Argument("--task", "task", help="transcribe, or translate into English (default: transcribe)"),
            Argument("--timestamps", "timestamps", help="segment or word: print the times of each"),
        ),
        _shown,
        streams=True,
    ),
)
