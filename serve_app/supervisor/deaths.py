"""How often the runtime may be started anew, and after how long."""

from collections import deque
from collections.abc import Sequence

MOST = 3
WITHIN_S = 300.0
BACK_OFF_S = (0.0, 3.0)
"""Before the first new start, and before the second within WITHIN_S of it."""


class Deaths:
    """The deaths of the last five minutes."""

    def __init__(self, back_off_s: Sequence[float] = BACK_OFF_S) -> None:
        self._back_off_s = back_off_s
        self._at: deque[float] = deque(maxlen=MOST)

    def back_off(self, now: float) -> float | None:
        """Counts one more. The seconds to wait before the next start; None after the third within five minutes."""
        self._at.append(now)
        recent = sum(now - at < WITHIN_S for at in self._at)
        return None if recent == MOST else self._back_off_s[recent - 1]
