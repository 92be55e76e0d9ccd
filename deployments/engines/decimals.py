"""Float32 as decimal numbers for an answer."""

from typing import Any

import numpy as np

DIGITS = range(6, 10)
"""Every decimal of six digits is that of one float32, and nine digits tell all of them apart."""
FEW = 64
"""Of so many values each by itself is sooner done than all at once."""
PLAIN = 1e-12, 1e20
"""Between them a decimal is a whole number by a power of ten that a double holds exactly."""


def shortest(values: np.ndarray) -> Any:
    """As lists: the shortest decimals that read back as the same float32, as serde writes them."""
    given = np.asarray(values, np.float32)
    flat = given.ravel()
    found = flat.astype(np.float64)
    size = np.abs(found)
    plain = np.flatnonzero((size > PLAIN[0]) & (size < PLAIN[1])) if len(flat) > FEW else np.arange(0)
    others = np.setdiff1d(np.arange(len(flat)), plain, assume_unique=True)
    for digits in DIGITS:
        number = found[plain]
        places = digits - 1 - np.floor(np.log10(np.abs(number))).astype(np.int64)
        power = 10.0 ** np.abs(places)
        # Rounded once: it is the double that is written with these digits.
        near = np.where(places >= 0, np.rint(number * power) / power, np.rint(number / power) * power)
        same = near.astype(np.float32) == flat[plain]
        found[plain[same]] = near[same]
        plain = plain[~same]
    for index in (*others, *plain):
        found[index] = float(str(flat[index]))
    return found.reshape(given.shape).tolist()
