"""Which model a byte of memory is best spent on. The measurements behind it: docs/residency.md."""

import math
from dataclasses import dataclass, field
from typing import Protocol

HALF_LIFE_USES = 200
MOST_REMEMBERED = 4096


class Policy(Protocol):
    """Hears of every use; says what is worth least."""

    def used(self, name: str, now: float) -> None: ...

    def worth(self, name: str, size: int, load_s: float, now: float) -> float:
        """What a byte of a model is worth in memory, on any scale. The least goes first."""


@dataclass
class _Uses:
    count: float = 0.0
    at: int = 0


@dataclass
class CostAware:
    """How often it is wanted × what a reload costs ÷ its bytes: seconds of loading that a byte saves.

    A use counts half after `half_life` uses of any model, so that the pace of the traffic does not matter. Uses are
    remembered while a model is away: a popular one that had to go is no newcomer when it comes back.
    """

    half_life: int = HALF_LIFE_USES
    _uses: dict[str, _Uses] = field(default_factory=dict)
    _total: int = 0

    def used(self, name: str, now: float) -> None:
        self._total += 1
        uses = self._uses[name] = self._uses.pop(name, _Uses())  # in the order of their last uses
        if len(self._uses) > MOST_REMEMBERED:
            del self._uses[next(iter(self._uses))]
        uses.count = 1 + uses.count * math.exp2((uses.at - self._total) / self.half_life)
        uses.at = self._total

    def worth(self, name: str, size: int, load_s: float, now: float) -> float:
        uses = self._uses.get(name)
        if uses is None:
            return -math.inf
        # As a logarithm: what nobody used for long would all be worth nothing alike.
        wanted = math.log2(uses.count) + (uses.at - self._total) / self.half_life
        return wanted + math.log2(max(load_s, 1e-3)) - math.log2(max(size, 1))
