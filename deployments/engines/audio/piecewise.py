"""What speech models share that answer for a window of sound at a time. Knows windows and batches."""

import abc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from deployments.contract.errors import Internal, InvalidRequest, ServingError
from deployments.contract.speech import SpeechSegment
from deployments.engines.audio.pieces import Window
from deployments.engines.audio.transcript import SpeechOptions, Transcript
from deployments.engines.batches import Fitted, in_batches
from deployments.engines.vision.forward import storage_bytes

BATCH_SIZES = {"cpu": 4, "cuda": 16}
"""Windows in one forward. On a CPU a window of 30 s fills all cores; short ones share what a forward costs."""


class Reader(abc.ABC):
    """Joins what the windows of one request gave, in order."""

    @abc.abstractmethod
    def feed(self, window: Window, given: Any) -> Sequence[SpeechSegment]:
        """The segments that are final by now and were not given before."""

    @abc.abstractmethod
    def end(self) -> Transcript:
        """After the last window."""


class PiecewiseEngine(abc.ABC):
    """One model, ready to answer. `windows` and `reader` for one request, `run` for the windows of any.

    `resident_bytes` is what the weights take. `batch_size` is the largest batch worth making on this device.
    """

    note = ""
    times_words = False
    """Whether it gives the times of words."""

    def __init__(self, model: Any, extractor: Any, tokenizer: Any, cores: int) -> None:
        self.rate = int(extractor.sampling_rate)
        self.batch_size = BATCH_SIZES[model.device.type]
        self._model: Any = model
        self._extractor = extractor
        self._tokenizer = tokenizer
        self._cores = cores
        self._fitted = Fitted()

    @property
    def resident_bytes(self) -> int:
        return storage_bytes(self._model) if self._model is not None else 0

    @property
    def runtime_info(self) -> tuple[str, ...]:
        return (f"{self.note}, {self.rate} Hz", f"forward: PyTorch, largest batch {self.batch_size}")

    def check(self, options: SpeechOptions) -> None:
        """Raises InvalidRequest for what the model cannot be asked."""
        if options.language is not None:
            raise InvalidRequest("this model has no languages to choose from: leave out language")
        if options.translate:
            raise InvalidRequest("this model transcribes only: leave out task")
        if options.words and not self.times_words:
            raise InvalidRequest("this model gives the times of segments, not of words: ask for 'segment'")

    @abc.abstractmethod
    def windows(self, samples: np.ndarray) -> Iterator[Window]:
        """Of float32 [samples] at `rate`."""

    @abc.abstractmethod
    def reader(self) -> Reader: ...

    def run(self, windows: Sequence[Window]) -> list[Any | ServingError]:
        """One item a window, in order: what it gave, or the error of that window alone."""
        return in_batches(windows, self.batch_size, self._run, _fault, self._fitted)

    def close(self) -> None:
        """Drop every reference to the model, so that its memory comes back."""
        self._model = self._extractor = self._tokenizer = None

    def _run(self, windows: Sequence[Window]) -> Sequence[Any | ServingError]:
        if self._model is None:
            return [Internal("the model is closed")] * len(windows)
        if torch.get_num_threads() != self._cores:
            torch.set_num_threads(self._cores)  # of the calling thread
        with torch.inference_mode():
            return self._forward(windows)

    @abc.abstractmethod
    def _forward(self, windows: Sequence[Window]) -> Sequence[Any | ServingError]: ...

    def _inputs(self, windows: Sequence[Window]) -> dict[str, torch.Tensor]:
        """The extractor's, on the model's device and in its dtype."""
        batch = self._extractor(
            [window.samples for window in windows], sampling_rate=self.rate, return_tensors="pt", padding=True
        )
        model = self._model
        return {
            name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
            for name, tensor in batch.items()
        }


def _fault() -> ServingError:
    return Internal("the model failed on this audio")
