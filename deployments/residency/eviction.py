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
class _Uses:
    count: float = 0.0
    at: int = 0
    """The number of uses of all models when this count was right."""


@dataclass
class CostAware:
    """Frequency of use × cost of a reload ÷ bytes: the seconds of loading that a byte saves.

    A use counts half after `half_life` uses of any model. Decay by uses, not by seconds, makes the scores independent
    of the request rate. Uses are remembered after an eviction, so that a popular model does not start again from zero.
    """

    half_life: int = HALF_LIFE_USES
    _uses: dict[str, _Uses] = field(default_factory=dict)
    _total: int = 0

    def record_use(self, name: str, now: float) -> None:
        self._total += 1
        uses = self._uses[name] = self._uses.pop(name, _Uses())  # The dict's order is that of the last uses.
        if len(self._uses) > MAX_REMEMBERED:
            del self._uses[next(iter(self._uses))]
        uses.count = 1 + uses.count * math.exp2((uses.at - self._total) / self.half_life)
        uses.at = self._total

    def eviction_score(self, name: str, size: int, load_s: float, now: float) -> float:
        uses = self._uses.get(name)
        if uses is None:
            return -math.inf
        # The logarithm of the product. The product itself underflows to zero for all models that were not used for
        # long, and zeros cannot be ordered.
        frequency = math.log2(uses.count) + (uses.at - self._total) / self.half_life
        return frequency + math.log2(max(load_s, 1e-3)) - math.log2(max(size, 1))
