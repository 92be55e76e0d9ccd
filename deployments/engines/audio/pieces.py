"""Long sound in pieces: cut at quiet places, or windows that overlap. Knows NumPy only."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

LONGEST_S = 30.0
"""Of a piece. What such models were trained with."""
SEARCHED_S = 5.0
"""How far before a piece's end a quiet place is looked for."""
_QUIET_S = 0.1
"""What is compared: the loudness of so long a part."""


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a sound, and which of its frames count."""

    samples: np.ndarray
    start: int = 0
    """Samples before it."""
    left: int = 0
    """Frames at its beginning that the window before it has answered."""
    right: int | None = None
    """How many frames count up to its end; None: all."""
    shape: int = 0
    """Windows of equal shape may share a forward."""


def is_silent(samples: np.ndarray) -> bool:
    """Whether nothing is said: no samples, or the same one throughout."""
    return not len(samples) or float(np.ptp(samples)) == 0.0


def cut_at_quiet_places(samples: np.ndarray, rate: int, longest_s: float = LONGEST_S) -> Iterator[Window]:
    """Windows of at most `longest_s` that join to the whole. Each but the last ends in the middle of the quietest tenth
    of a second of its last five seconds."""
    start, longest = 0, round(longest_s * rate)
    searched, part = round(min(SEARCHED_S, longest_s / 2) * rate), round(_QUIET_S * rate)
    while len(samples) - start > longest:
        last = samples[start + longest - searched : start + longest]
        energy = np.convolve(np.square(last, dtype=np.float64), np.ones(part), "valid")
        end = start + longest - searched + int(energy.argmin()) + part // 2
        yield Window(samples[start:end], start, shape=end - start)
        start = end
    yield Window(samples[start:], start, shape=len(samples) - start)


def overlapping(samples: np.ndarray, rate: int, ratio: int, longest_s: float = LONGEST_S) -> Iterator[Window]:
    """Windows of `longest_s`, of which each sees a sixth of that beside what it answers for. `ratio`: samples a frame.

    What they answer for joins to the frames of the whole without a gap.
    """
    beside = round(longest_s * rate / 6) // ratio
    longest = round(longest_s * rate) // ratio * ratio
    start = 0
    while start + longest < len(samples):
        left = beside if start else 0
        yield Window(samples[start : start + longest], start, left, longest // ratio - beside, shape=longest)
        start += longest - 2 * beside * ratio
    yield Window(samples[start:], start, beside if start else 0, shape=len(samples) - start)
