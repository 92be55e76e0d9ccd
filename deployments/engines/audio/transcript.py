"""What is asked of a speech model, and what it answers."""

from collections.abc import Callable
from dataclasses import dataclass

from deployments.contract.speech import SpeechSegment

OnSegment = Callable[[SpeechSegment], None]
"""Takes each segment as soon as it is final."""


@dataclass(frozen=True, slots=True)
class SpeechOptions:
    """What a request chooses."""

    language: str | None = None
    translate: bool = False
    timestamps: bool = False
    """Whether the segments' times are wanted. Where a model has to be asked for them, its text may change with them."""
    words: bool = False
    """Whether the words' times are wanted, beside those of the segments."""


@dataclass(frozen=True, slots=True)
class Transcript:
    text: str
    segments: tuple[SpeechSegment, ...]
    """In order. One for all, where times were not asked for."""
    words: tuple[SpeechSegment, ...] = ()
    language: str | None = None
    """As a code such as "de", where the model has languages."""


def whole(text: str, seconds: float) -> tuple[SpeechSegment, ...]:
    """A text as one segment; none where nothing is said."""
    return (SpeechSegment(start_s=0.0, end_s=seconds, text=text),) if text else ()
