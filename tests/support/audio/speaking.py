"""A speech engine asked as its replica asks it."""

import numpy as np

from deployments.contract.errors import ServingError
from deployments.contract.speech import SpeechSegment
from deployments.engines.audio.engine import SpeechEngine
from deployments.engines.audio.transcript import SpeechOptions, Transcript
from deployments.engines.audio.whisper import WhisperEngine


class Straight:
    """Nobody else waits, and nobody leaves."""

    def check(self) -> None: ...

    def pause(self) -> None: ...


def written(
    engine: SpeechEngine, samples: np.ndarray, told: list[SpeechSegment] | None = None, **options: object
) -> Transcript:
    """`told` gets the segments as they come."""
    told = [] if told is None else told
    asked = SpeechOptions(**options)  # type: ignore[arg-type]
    engine.check(asked)
    if isinstance(engine, WhisperEngine):
        return engine.transcribe(samples, asked, told.append, Straight())
    reader = engine.reader()
    for window in engine.windows(samples):
        [given] = engine.run([window])
        if isinstance(given, ServingError):
            raise given
        told += reader.feed(window, given)
    return reader.end()
