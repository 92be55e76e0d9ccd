"""Models that write the text of a sound at once, without times (Moonshine, Speech2Text)."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from deployments.contract.errors import ServingError
from deployments.contract.speech import SpeechSegment
from deployments.engines.audio.ctc import SHORTEST_S
from deployments.engines.audio.pieces import Window, cut_at_quiet_places, is_silent
from deployments.engines.audio.piecewise import PiecewiseEngine, Reader
from deployments.engines.audio.transcript import Transcript


class Seq2SeqEngine(PiecewiseEngine):
    """One text for each piece. Long sound is cut at quiet places, before the 30 s that such models know."""

    note = "encoder and decoder"

    def __init__(self, model: Any, extractor: Any, tokenizer: Any, cores: int) -> None:
        super().__init__(model, extractor, tokenizer, cores)
        self.batch_size = 1  # what is padded changes the text
        generation = model.generation_config
        if generation.max_length is None and generation.max_new_tokens is None:
            config = model.config  # the library would end after 20 tokens
            generation.max_length = getattr(config, "max_target_positions", None) or config.max_position_embeddings

    def windows(self, samples: np.ndarray) -> Iterator[Window]:
        yield from cut_at_quiet_places(samples, self.rate)

    def reader(self) -> Reader:
        return _Texts(self.rate)

    def _forward(self, windows: Sequence[Window]) -> Sequence[str | ServingError]:
        texts = []
        for window in windows:
            if is_silent(window.samples) or len(window.samples) < SHORTEST_S * self.rate:
                texts.append("")
                continue
            tokens = self._model.generate(**self._inputs([window]))
            texts.append(str(self._tokenizer.batch_decode(tokens, skip_special_tokens=True)[0]).strip())
        return texts


class _Texts(Reader):
    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._segments: list[SpeechSegment] = []

    def feed(self, window: Window, given: str) -> Sequence[SpeechSegment]:
        if not given:
            return ()
        start, end = window.start / self._rate, (window.start + len(window.samples)) / self._rate
        self._segments.append(SpeechSegment(start_s=round(start, 3), end_s=round(end, 3), text=given))
        return self._segments[-1:]

    def end(self) -> Transcript:
        return Transcript(" ".join(segment.text for segment in self._segments), tuple(self._segments))
