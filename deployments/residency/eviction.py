"""Which idle model is evicted first. Knows names, sizes and times; the measurements are in docs/residency.md."""

import math
from dataclasses import dataclass, field
from typing import Protocol

HALF_LIFE_USES = 200
"""A shorter half-life follows a change of popularity sooner; a longer one estimates a steady popularity better.

200 lost 1 % of reload seconds to 5,000 under steady traffic and won 16 % where popularity changed every 30 s
(`python -m benchmarks.residency.eviction`).
"""
MAX_REMEMBERED = 4096
"""Models whose uses are counted. Not measured: it bounds memory, far above what a replica sees."""


class EvictionPolicy(Protocol):
    """Is given every use of a model and scores models by what they save."""

    def record_use(self, name: str, now: float) -> None: ...

    def eviction_score(self, name: str, size: int, load_s: float, now: float) -> float:
        """What a byte of the model saves by staying in memory, on any scale. The lowest score is evicted first."""


@dataclass
class CostAware:
    """Frequency of use × cost of a reload ÷ bytes: the seconds of loading that a byte saves.

    A use counts half after `half_life` uses of any model. Decay by uses, not by seconds, makes the scores independent
    of the request rate. Uses are remembered after an eviction, so that a popular model does not start again from zero.
    """

    half_life: int = HALF_LIFE_USES
    _uses: dict[str, float] = field(default_factory=dict)
    """log2(decayed count) + age when it was counted: so a decay changes nothing, and a small count does not underflow
    to zero, which could not be ordered."""
    _age: float = 0.0
    """The uses of all models so far, in half-lives."""

    def record_use(self, name: str, now: float) -> None:
        self._age += 1 / self.half_life
        count = 1 + math.exp2(self._uses.pop(name, -math.inf) - self._age)
        self._uses[name] = math.log2(count) + self._age  # Behind all others: the dict's order is that of the last uses.
        if len(self._uses) > MAX_REMEMBERED:
            del self._uses[next(iter(self._uses))]

    def eviction_score(self, name: str, size: int, load_s: float, now: float) -> float:
        frequency = self._uses.get(name, -math.inf) - self._age
        return frequency + math.log2(max(load_s, 1e-3)) - math.log2(max(size, 1))
