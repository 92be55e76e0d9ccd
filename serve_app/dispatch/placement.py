"""Which replica a model's next call takes, so that models are loaded as seldom as possible. Knows names and counts.

A call goes to a replica that holds its model, while that replica has few calls under way. A model that no replica holds
goes to one with enough free memory for it, else to the one where the models to evict are used least: those that no call
uses now, since others are not evicted. A model whose replicas are all busy gets one more copy: into free memory, or in
place of a model that is used far less.
"""

import math
from collections.abc import Sequence, Set
from typing import Protocol

from deployments.replica.calls import Holdings

COMING_S = 10.0
"""For so long after a call its replica may not have reported the model yet: a load that waits for memory."""
HALF_LIFE_CALLS = 500
"""After so many calls of a family an earlier one counts half."""
FAR_LESS = 4.0
"""A copy replaces a model that would be used so many times less than the copy. Smaller values load more often."""
DOUBT = 2.0
"""Of a model's share of the calls so many standard deviations are taken off, since the first calls say little."""
USUAL_SIZE = 0.1
"""The share of a replica's memory that a model takes where none is known."""
ROUNDING = 0.02
"""Replicas report their free share in hundredths."""
MAX_REMEMBERED = 4096
_GROWTH = 2 ** (1 / HALF_LIFE_CALLS)
_LARGE = 1e200


class ReplicaMemory:
    """What is known of one replica's models: what it reported last, and the calls that were sent to it since."""

    def __init__(self) -> None:
        self.held: frozenset[str] = frozenset()
        """In memory or being loaded."""
        self.free = 1.0
        """The share of its memory that was free then."""
        self.coming: dict[str, float] = {}
        """When a call was sent there for a model that it has not reported yet."""

    def update(self, holdings: Holdings) -> None:
        self.held, self.free = holdings.models, holdings.free
        for model in self.held & self.coming.keys():
            # From now on the replica decides.
            del self.coming[model]

    def sent(self, model: str, now: float) -> None:
        if model not in self.held:
            self.coming[model] = now

    def holds(self, model: str, now: float) -> bool:
        """Whether it is there, or about to be."""
        return model in self.held or (model in self.coming and now - self.coming[model] < COMING_S)

    def models(self, now: float) -> Set[str]:
        """Those that are there, or about to be."""
        self.coming = {model: at for model, at in self.coming.items() if now - at < COMING_S}
        return self.held | self.coming.keys() if self.coming else self.held

    def free_after_loads(self, size: float) -> float:
        """The share that stays free when the models are there that were sent. `size`: the share of a usual one."""
        return self.free - len(self.coming) * size

    @property
    def size(self) -> float | None:
        """The share that a model takes on average; None where there is none."""
        return (1 - self.free) / len(self.held) if self.held else None


class Replica(Protocol):
    """A replica that takes calls."""

    @property
    def memory(self) -> ReplicaMemory: ...

    @property
    def under_way(self) -> int:
        """Calls."""

    @property
    def models_in_use(self) -> Set[str]:
        """Those of the calls under way."""


class Placement:
    """The choice among one family's replicas. `target_ongoing`: from so many calls under way on, a replica is busy."""

    def __init__(self, target_ongoing: float) -> None:
        self.target_ongoing = target_ongoing
        self._uses: dict[str, float] = {}
        self._weight = 1.0
        self._total = 0.0

    def best(self, model: str, replicas: Sequence[Replica], now: float) -> int:
        """The index of the replica for the next call of a model, "" where the family has none."""
        if not model:
            return min(range(len(replicas)), key=lambda index: replicas[index].under_way)
        self._count(model)
        chosen = self._chosen(model, replicas, now)
        replicas[chosen].memory.sent(model, now)
        return chosen

    def _chosen(self, model: str, replicas: Sequence[Replica], now: float) -> int:
        everyone = range(len(replicas))

        def under_way(index: int) -> int:
            return replicas[index].under_way

        # Before anything else is looked at: with a hundred replicas the rest takes longer than the call itself.
        holders = [index for index, replica in enumerate(replicas) if replica.memory.holds(model, now)]
        wanted = self._copies(model, len(replicas))
        if holders:
            # Copies beyond those that are wanted rest, so that their replicas evict them.
            least_busy = min(holders[:wanted], key=under_way)
            if under_way(least_busy) >= self.target_ongoing:
                least_busy = min(holders, key=under_way)
            if under_way(least_busy) < self.target_ongoing or len(holders) >= wanted:
                return least_busy
        candidates = [index for index in everyone if index not in holders]
        if holders:
            candidates = [index for index in candidates if under_way(index) < self.target_ongoing]
            if not candidates:
                return least_busy

        models = [replica.memory.models(now) for replica in replicas]
        sizes = [size for replica in replicas if (size := replica.memory.size)]
        size = sum(sizes) / len(sizes) if sizes else USUAL_SIZE

        def free(index: int) -> float:
            return replicas[index].memory.free_after_loads(size)

        most_free = max(candidates, key=lambda index: (free(index), -under_way(index)))
        if free(most_free) > size - ROUNDING:
            return most_free

        held = {name for of_replica in models for name in of_replica}
        copies = {name: sum(name in of_replica for of_replica in models) for name in held}
        spare = {name for name in held if copies[name] > self._copies(name, len(replicas))}

        def use_of_evicted(index: int) -> float:
            """How much the model is used that the replica would evict."""
            idle = (models[index] - replicas[index].models_in_use) or models[index]
            uses = (0.0 if name in spare else self._uses.get(name, 0.0) / copies[name] for name in idle)
            return min(uses, default=0.0)

        cheapest = min(candidates, key=lambda index: (use_of_evicted(index), -free(index), under_way(index)))
        if holders and self._uses[model] / (len(holders) + 1) < FAR_LESS * use_of_evicted(cheapest):
            return least_busy
        return cheapest

    def _copies(self, model: str, replicas: int) -> int:
        """How many replicas the model is wanted on, by its share of the family's calls."""
        share, calls = self._uses.get(model, 0.0) / self._total, self._total / self._weight
        doubt = DOUBT * math.sqrt(max(0.0, share * (1 - share)) / calls)
        return max(1, math.ceil((share - doubt) * replicas))

    def _count(self, model: str) -> None:
        self._weight *= _GROWTH
        self._total += self._weight
        # Behind all others: the dict's order is that of the last uses.
        self._uses[model] = self._uses.pop(model, 0.0) + self._weight
        if len(self._uses) > MAX_REMEMBERED:
            del self._uses[next(iter(self._uses))]
        if self._weight > _LARGE:
            self._uses = {name: uses / self._weight for name, uses in self._uses.items()}
            self._total, self._weight = self._total / self._weight, 1.0
