"""CTC models (wav2vec2, HuBERT, WavLM, SEW, Parakeet …): a token for each frame, and a text of those."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from deployments.contract.errors import Internal, ServingError
from deployments.contract.speech import SpeechSegment
from deployments.engines.audio.pieces import Window, cut_at_quiet_places, is_silent, overlapping
from deployments.engines.audio.piecewise import PiecewiseEngine, Reader
from deployments.engines.audio.spelling import CtcSpelling, segments_of
from deployments.engines.audio.transcript import Transcript

SHORTEST_S = 0.1
"""Of sound that features are made of. In less nothing is said."""
BUCKET_S = 1.0
"""Windows whose lengths differ by less are padded to one, where a model masks what is padded."""


class CtcEngine(PiecewiseEngine):
    """Takes samples, and gives a frame for each `ratio` of them: long sound goes through in windows that overlap.

    Models that take features of a whole (Parakeet, Wav2Vec2-BERT) get pieces that are cut at quiet places.
    """

    note = "CTC"
    times_words = True

    def __init__(self, model: Any, extractor: Any, tokenizer: Any, cores: int) -> None:
        super().__init__(model, extractor, tokenizer, cores)
        config = model.config
        convolves = extractor.model_input_names[0] == "input_values" and not getattr(config, "add_adapter", False)
        self.ratio: int | None = int(config.inputs_to_logits_ratio) if convolves else None
        # Norms over groups see the padding: such models were trained without a mask, and batch equal lengths only.
        layer_norms = getattr(config, "feat_extract_norm", None) == "layer"
        self.masks = self.ratio is not None and layer_norms and bool(extractor.return_attention_mask)
        self._spelling: CtcSpelling | None = CtcSpelling(tokenizer)
        self._own_generate = "generate" in type(model).__dict__

    def windows(self, samples: np.ndarray) -> Iterator[Window]:
        if self.ratio is None:
            yield from cut_at_quiet_places(samples, self.rate)
            return
        for window in overlapping(samples, self.rate, self.ratio):
            bucket = round(BUCKET_S * self.rate) if self.masks else 1
            yield Window(window.samples, window.start, window.left, window.right, -(-window.shape // bucket))

    def reader(self) -> Reader:
        assert self._spelling is not None
        return _Frames(self._spelling, self.rate, self.ratio) if self.ratio else _Pieces(self._spelling, self.rate)

    def close(self) -> None:
        super().close()
        self._spelling = None

    def _forward(self, windows: Sequence[Window]) -> Sequence[np.ndarray | ServingError]:
        """The most probable token of each frame that counts."""
        # Of one shape: all are too short, or none is, but for those of a bucket.
        counts = [self._frames_of(window) for window in windows]
        speaks = [count > 0 and not is_silent(window.samples) for window, count in zip(windows, counts, strict=True)]
        spoken = [window for window, says in zip(windows, speaks, strict=True) if says]
        tokens = iter(self._tokens(spoken) if spoken else ())
        blank = np.full(1, self._tokenizer.pad_token_id)
        given: list[np.ndarray | ServingError] = []
        for window, count, says in zip(windows, counts, speaks, strict=True):
            silent = np.repeat(blank, count if self.ratio else 1)
            given.append(_counting(next(tokens) if says else silent, window, count))
        return given

    def _tokens(self, windows: Sequence[Window]) -> list[np.ndarray | ServingError]:
        inputs = self._inputs(windows)
        if self._own_generate:  # which masks its own frames
            return list(self._model.generate(**inputs).cpu().numpy())
        logits = self._model(**inputs).logits
        finite = logits.isfinite().all(-1).all(-1).tolist()
        tokens = logits.argmax(-1).cpu().numpy()
        fault = Internal("the model gave numbers that are not finite")
        return [row if good else fault for row, good in zip(tokens, finite, strict=True)]

    def _frames_of(self, window: Window) -> int:
        """How many frames a window has; of features, which are not padded here, any number."""
        if self.ratio is None:
            return _ALL if len(window.samples) >= SHORTEST_S * self.rate else 0
        frames = int(self._model._get_feat_extract_output_lengths(torch.tensor([len(window.samples)])))
        return frames if frames >= getattr(self._model.config, "squeeze_factor", 1) else 0


_ALL = 2**31
_NONE = np.zeros(0, np.int64)


def _counting(tokens: np.ndarray | ServingError, window: Window, frames: int) -> np.ndarray | ServingError:
    if isinstance(tokens, ServingError):
        return tokens
    return tokens[window.left : frames if window.right is None else window.right]


class _Frames(Reader):
    """Frames of equal length that join to those of the whole."""

    def __init__(self, spelling: CtcSpelling, rate: int, ratio: int) -> None:
        self._spelling = spelling
        self._seconds = ratio / rate
        self._frames: list[np.ndarray] = []
        self._open = np.zeros(0, np.int64)
        """Frames after the last final segment."""
        self._before = 0
        self._words: list[SpeechSegment] = []
        self._segments: list[SpeechSegment] = []

    def feed(self, window: Window, given: np.ndarray) -> Sequence[SpeechSegment]:
        self._frames.append(given)
        self._open = np.concatenate((self._open, given))
        return self._close(all_of_them=False)

    def end(self) -> Transcript:
        self._close(all_of_them=True)
        frames = np.concatenate(self._frames) if self._frames else _NONE
        return Transcript(self._spelling.text(frames), tuple(self._segments), tuple(self._words))

    def _close(self, all_of_them: bool) -> list[SpeechSegment]:
        words = [_later(word, self._before * self._seconds) for word in self._spelling.words(self._open, self._seconds)]
        segments = segments_of(words)
        final = segments if all_of_them else segments[:-1]  # the last one may go on
        if final:
            done = round(final[-1].end_s / self._seconds)
            self._words += [word for word in words if word.end_s <= final[-1].end_s]
            self._open = self._open[done - self._before :]
            self._before = done
            self._segments += final
        return final


class _Pieces(Reader):
    """Pieces of their own, each with the frames that the model gave for it."""

    def __init__(self, spelling: CtcSpelling, rate: int) -> None:
        self._spelling = spelling
        self._rate = rate
        self._words: list[SpeechSegment] = []
        self._segments: list[SpeechSegment] = []
        self._texts: list[str] = []

    def feed(self, window: Window, given: np.ndarray) -> Sequence[SpeechSegment]:
        seconds = len(window.samples) / self._rate / max(1, len(given))
        words = [_later(word, window.start / self._rate) for word in self._spelling.words(given, seconds)]
        self._texts.append(self._spelling.text(given))
        self._words += words
        self._segments += (segments := segments_of(words))
        return segments

    def end(self) -> Transcript:
        return Transcript(" ".join(filter(None, self._texts)), tuple(self._segments), tuple(self._words))


def _later(word: SpeechSegment, seconds: float) -> SpeechSegment:
    times = {"start_s": round(word.start_s + seconds, 3), "end_s": round(word.end_s + seconds, 3)}
    return word.model_copy(update=times)
