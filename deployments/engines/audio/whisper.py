"""Whisper: languages, translation, times, and sound of any length by the library's own long form."""

import math
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from deployments.contract.errors import Internal, InvalidRequest, quoted
from deployments.contract.speech import SpeechSegment
from deployments.engines.audio.flow import Ends, Flow, Prompt, RememberedEncoder, Straight
from deployments.engines.audio.greedy import Clip, GreedyDecoder
from deployments.engines.audio.openvino_convert import convert
from deployments.engines.audio.openvino_decoder import ConvertedWhisper, OpenVinoDecoder
from deployments.engines.audio.pieces import is_silent
from deployments.engines.audio.torch_decoder import TorchDecoder
from deployments.engines.audio.transcript import OnSegment, SpeechOptions, Transcript, whole
from deployments.engines.audio.word_times import WordTimes
from deployments.engines.conversion import Conversion, convert_in_background
from deployments.engines.vision.forward import storage_bytes
from deployments.system.artifact_cache import ArtifactCache

NO_SPEECH, LOGPROB = 0.6, -1.0
"""Whisper's own: a window is silent if the no-speech token is more probable, and the text less, on average."""


class WhisperEngine:
    """One model. Clips of one window without times share the steps of the decoder (`clip`, `begin`, `step`, `written`);
    others are transcribed one after another, between whose windows another's may be computed.

    `resident_bytes` is what the weights take. `runtime_info` is how it runs, for the status page.
    """

    def __init__(self, model: Any, extractor: Any, tokenizer: Any, cores: int) -> None:
        self.rate = int(extractor.sampling_rate)
        self._model: Any = model
        self._extractor = extractor
        self._tokenizer = tokenizer
        self._cores = cores
        generation = model.generation_config
        if generation.max_length is None and generation.max_new_tokens is None:
            generation.max_length = model.config.max_target_positions  # the library would end after 20 tokens
        codes: Mapping[str, int] = getattr(generation, "lang_to_id", None) or {}
        self._languages = {number: name.strip("<|>") for name, number in codes.items()}
        self._multilingual = bool(getattr(generation, "is_multilingual", self._languages)) and bool(self._languages)
        self._tasks: Mapping[str, int] = getattr(generation, "task_to_id", None) or {}
        self._knows_times = getattr(generation, "no_timestamps_token_id", None) is not None
        self._language, self._task = self._defaults()
        self._of_thread = threading.local()
        self._greedy: GreedyDecoder | None = None
        if self._knows_times and GreedyDecoder.takes(generation):
            self._greedy = GreedyDecoder(model, TorchDecoder(model, cores), self._languages, NO_SPEECH, LOGPROB)
        self.settled = threading.Event()
        self.settled.set()
        self._converted: ConvertedWhisper | None = None
        self._note = "PyTorch"
        self._probes: list[torch.Tensor] = []
        self._note_segments(model)
        self._word_times = WordTimes(model, tokenizer)
        self._encoder = RememberedEncoder(model.get_encoder())

    @property
    def resident_bytes(self) -> int:
        if self._model is None:
            return 0
        return storage_bytes(self._model) + (self._converted.resident_bytes if self._converted is not None else 0)

    @property
    def runtime_info(self) -> tuple[str, ...]:
        languages = f"{len(self._languages)} languages" if self._multilingual else "English only"
        together = f"; at most {self.most_clips} short clips together" if self._greedy else ""
        note = self._note if self.settled.is_set() else f"{self._note}, being converted"
        return (
            f"Whisper, {self.rate} Hz, {languages}",
            f"forward: {note}, on {self._cores} thread{'s' if self._cores > 1 else ''}{together}",
        )

    @property
    def most_clips(self) -> int:
        """Clips that may share steps."""
        return self._greedy.most if self._greedy else 0

    def clip(self, samples: np.ndarray, options: SpeechOptions) -> Clip | None:
        """None for what `transcribe` must do. For any thread."""
        if self._greedy is None or options.timestamps or len(samples) > self._extractor.n_samples or is_silent(samples):
            return None
        return Clip(self._features(samples)[0], self._prompt(options))

    def begin(self, clip: Clip) -> None:
        """Before its first step."""
        self._decoder.begin(clip)

    def step(self, clips: Sequence[Clip]) -> None:
        """One more token of each."""
        self._decoder.step(clips)

    def written(self, clip: Clip, seconds: float) -> Transcript:
        """The text of a clip that is done."""
        tokens = [] if clip.silent else clip.tokens
        text = str(self._tokenizer.decode(tokens, skip_special_tokens=True)).strip()
        return Transcript(text, whole(text, round(seconds, 3)), language=self._language_of(clip.prompt))

    def try_together(self, samples: np.ndarray) -> None:
        """Clips share steps only where that gives what the library's own loop gives for [samples]."""
        options = SpeechOptions()
        clip = self.clip(samples, options)
        if clip is None:
            return
        self.begin(clip)
        while not clip.done:
            self.step([clip])
        if self.written(clip, 0.0).text != self.transcribe(samples, options, lambda _: None, Straight()).text:
            self._greedy = None

    def convert(self, sounds: Sequence[np.ndarray], folder: Path, cache: ArtifactCache) -> None:
        """In the background, for OpenVINO, where clips share steps. `sounds`: in which the two are compared."""
        if self._greedy is not None:
            self._probes = [self._features(sound)[0] for sound in sounds]
            read = partial(ConvertedWhisper.read, cores=self._cores)
            convert_in_background(self, Conversion(cache, folder, convert, (), read))

    def fault(self, converted: ConvertedWhisper) -> str | None:
        greedy = self._decoder
        network = OpenVinoDecoder(converted, self._model, greedy.most)
        return greedy.fault(network, self._probes, self._prompt(SpeechOptions()))

    def use(self, converted: ConvertedWhisper | None, note: str) -> None:
        if self._greedy is None:  # closed meanwhile
            return
        self._probes = []
        if converted is None:
            self._note = f"PyTorch ({note})"
        else:
            self._greedy.network = OpenVinoDecoder(converted, self._model, self._greedy.most)
            self._converted, self._note, self._encoder.converted = converted, note, converted.encoder

    def check(self, options: SpeechOptions) -> None:
        """Raises InvalidRequest for what the model cannot be asked."""
        self._code(options.language)
        if options.translate and not self._multilingual:
            raise InvalidRequest("this model knows English only, and does not translate: leave out task")
        if options.timestamps and not self._knows_times:
            raise InvalidRequest("this model gives no times: generation_config.json names no no_timestamps_token_id")
        if options.words and (fault := self._word_times.fault):
            raise InvalidRequest(f"this model gives the times of segments, not of words, as {fault}: ask for 'segment'")

    def transcribe(self, samples: np.ndarray, options: SpeechOptions, on_segment: OnSegment, flow: Flow) -> Transcript:
        """The text of float32 [samples] at `rate`. Raises ServingError, and what `flow` raises."""
        model, seconds = self._model, len(samples) / self.rate
        if model is None:
            raise Internal("the model is closed")
        self._use_threads()
        if is_silent(samples):
            return Transcript("", (), language=self._code(options.language))
        is_long = len(samples) > self._extractor.n_samples
        in_segments = options.timestamps or is_long
        segments: list[tuple[SpeechSegment, str]] = []
        words: list[SpeechSegment] = []
        prompt = Prompt()

        def came(found: Sequence[dict[str, Any]]) -> None:
            for one in found:
                one["result"] = None  # else the logits of every window are kept
                text = str(self._tokenizer.decode(one["tokens"], skip_special_tokens=True))
                start = round(float(one["start"]), 3)
                if not text.strip() or start >= seconds:  # in the zeros that fill up a window
                    continue
                end = min(max(round(float(one["end"]), 3), start), round(seconds, 3))
                segment = SpeechSegment(start_s=start, end_s=end, text=text.strip())
                segments.append((segment, text))
                if options.words:
                    words.extend(self._word_times.words(one, self._language_of(prompt.tokens), seconds))
                if in_segments:
                    on_segment(segment)

        features = self._features(samples)
        frames = min(features.shape[-1], math.ceil(len(samples) / self._extractor.hop_length))
        self._of_thread.came, self._of_thread.frames = came, frames if options.words else None
        try:
            with torch.inference_mode():
                tokens = model.generate(
                    features,
                    return_timestamps=in_segments if self._knows_times else None,
                    logits_processor=[prompt],
                    stopping_criteria=[Ends(flow)],
                    monitor_progress=lambda _: flow.pause(),
                    **self._thresholds(),
                    **self._language_and_task(options),
                )
        finally:
            del self._of_thread.came, self._of_thread.frames
            self._encoder.forget()
        language = self._language_of(prompt.tokens)
        if in_segments:
            text = "".join(text for _, text in segments).strip()
            return Transcript(text, tuple(segment for segment, _ in segments), tuple(words), language)
        text = str(self._tokenizer.batch_decode(tokens, skip_special_tokens=True)[0]).strip() if len(tokens) else ""
        return Transcript(text, whole(text, round(seconds, 3)), language=language)

    def close(self) -> None:
        """Drop every reference to the model, so that its memory comes back."""
        self._model = self._extractor = self._tokenizer = self._greedy = self._converted = None
        self._word_times.close()
        self._encoder.close()

    @property
    def _decoder(self) -> GreedyDecoder:
        if self._greedy is None:
            raise Internal("the model is closed")
        return self._greedy

    def _use_threads(self) -> None:
        if torch.get_num_threads() != self._cores:
            torch.set_num_threads(self._cores)  # of the calling thread

    def _features(self, samples: np.ndarray) -> torch.Tensor:
        """[1, mels, frames], of a whole window at least."""
        is_long = len(samples) > self._extractor.n_samples
        features: torch.Tensor = self._extractor(
            samples,
            sampling_rate=self.rate,
            return_tensors="pt",
            truncation=False,
            padding="longest" if is_long else "max_length",
        ).input_features
        return features.to(self._model.device, self._model.dtype)

    def _prompt(self, options: SpeechOptions) -> list[int | None]:
        """The tokens before the text, as the library makes them; None is a language to detect."""
        generation = self._model.generation_config
        tokens: list[int | None] = [generation.decoder_start_token_id]
        if self._multilingual:
            given = self._language_and_task(options)
            numbers = {code: number for number, code in self._languages.items()}
            tokens.append(numbers[given["language"]] if "language" in given else None)
            if "task" in given:
                tokens.append(self._tasks[given["task"]])
        return [*tokens, generation.no_timestamps_token_id]

    def _language_of(self, prompt: Sequence[int | None]) -> str | None:
        only = None if self._multilingual else "en"
        return next((self._languages[token] for token in prompt if token in self._languages), only)

    def _thresholds(self) -> dict[str, float]:
        if not self._knows_times:
            return {}
        return {"no_speech_threshold": NO_SPEECH, "logprob_threshold": LOGPROB, "temperature": 0.0}

    def _language_and_task(self, options: SpeechOptions) -> dict[str, str]:
        """The request's, else the folder's, else the language that the model detects and a transcription."""
        if not self._multilingual:
            return {}
        language = self._code(options.language) or self._language
        task = "translate" if options.translate else self._task
        return ({"language": language} if language else {}) | ({"task": task} if self._tasks else {})

    def _code(self, language: str | None) -> str | None:
        """Of a code or an English name in any case; what follows a hyphen, as in "en-US", is left out. Raises
        InvalidRequest."""
        if not language:
            return None
        name = language.strip("<|> ").lower()
        short = name.replace("_", "-").partition("-")[0]
        code = TO_LANGUAGE_CODE.get(name, short)
        known = self._languages.values() if self._multilingual else ("en",)
        if code not in known:
            only = "" if self._multilingual else ", which knows English only"
            raise InvalidRequest(f"language {quoted(language)} is none of this model{only}")
        return code

    def _defaults(self) -> tuple[str | None, str]:
        """The language and the task that the folder sets. Old ones have them as forced tokens, also in config.json."""
        generation = self._model.generation_config
        language, task = getattr(generation, "language", None), getattr(generation, "task", None)
        if language is None and task is None:
            both = (getattr(of, "forced_decoder_ids", None) for of in (generation, self._model.config))
            tokens = {token for _, token in next(filter(None, both), ()) if token is not None}
            language = next((code for number, code in self._languages.items() if number in tokens), None)
            task = next((name for name, number in self._tasks.items() if number in tokens), None)
        return (self._code(str(language)) if language and self._multilingual else None), str(task or "transcribe")

    def _note_segments(self, model: Any) -> None:
        """The library gives segments after the last one only: it makes them window by window in this method."""
        retrieve = model._retrieve_segment

        def noting(**arguments: Any) -> Any:
            if self._of_thread.frames is not None:
                self._word_times.add(arguments, self._encoder.encoded, self._of_thread.frames)
            segments, offset = retrieve(**arguments)
            self._of_thread.came(segments)
            return segments, offset

        model._retrieve_segment = noting
