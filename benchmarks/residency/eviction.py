"""Eviction policies on paper: the same traffic for each, without engines. `python -m benchmarks.residency.eviction`.

Sixty models of unequal size, popular by Zipf's law (α = 1), in a budget for about ten. A reload costs a fixed part and
one by size, as measured. `drift` means that popularity is shuffled every half minute.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from deployments.residency.eviction import CostAware, EvictionPolicy

MODELS = 60
BUDGET_SHARE = 10 / 60
SECONDS = 120.0
RATE = 60.0
DRIFT_S = 30.0
SEEDS = range(8)


@dataclass
class LeastRecentlyUsed:
    """As many are evicted as make the bytes free."""

    last: dict[str, float] = field(default_factory=dict)

    def record_use(self, name: str, now: float) -> None:
        self.last[name] = now

    def eviction_score(self, name: str, size: int, load_s: float, now: float) -> float:
        return self.last.get(name, 0.0)


@dataclass
class CostOverIdle(LeastRecentlyUsed):
    """Cost of a reload ÷ bytes ÷ idle time."""

    def eviction_score(self, name: str, size: int, load_s: float, now: float) -> float:
        return load_s / size / max(now - self.last.get(name, 0.0), 1e-3)


@dataclass
class GreedyDualSizeFrequency:
    """GDSF: uses since it came × cost ÷ size, on top of an age that rises to the score of each victim."""

    age: float = 0.0
    uses: dict[str, int] = field(default_factory=dict)
    born: dict[str, float] = field(default_factory=dict)

    def record_use(self, name: str, now: float) -> None:
        self.uses[name] = self.uses.get(name, 0) + 1
        self.born[name] = self.age

    def eviction_score(self, name: str, size: int, load_s: float, now: float) -> float:
        return self.born.get(name, 0.0) + self.uses.get(name, 0) * load_s / size * 1e6

    def evicted(self, score: float, name: str) -> None:
        self.age = max(self.age, score)
        self.uses.pop(name, None)


@dataclass(frozen=True)
class Traffic:
    sizes: dict[str, int]
    load_s: dict[str, float]
    requests: list[tuple[float, str]]


def traffic(seed: int, drift: bool) -> Traffic:
    rng = random.Random(seed)
    names = [f"m{number:02d}" for number in range(MODELS)]
    sizes = {name: int(2**20 * min(40.0, max(1.0, rng.lognormvariate(1.8, 0.8)))) for name in names}
    load_s = {name: 0.1 + 0.01 * size / 2**20 for name, size in sizes.items()}
    weights = [1 / rank for rank in range(1, MODELS + 1)]
    requests: list[tuple[float, str]] = []
    now, dealt = 0.0, -DRIFT_S
    while now < SECONDS:
        if now - dealt >= DRIFT_S and (drift or not requests):
            rng.shuffle(names)
            dealt = now
        requests.append((now, rng.choices(names, weights)[0]))
        now += rng.expovariate(RATE)
    return Traffic(sizes, load_s, requests)


def run(policy: EvictionPolicy, given: Traffic) -> tuple[float, float]:
    """Share of hits, and seconds spent on reloads (a model's first load is no reload)."""
    budget = int(sum(given.sizes.values()) * BUDGET_SHARE)
    held: set[str] = set()
    seen: set[str] = set()
    hits, reload_s = 0, 0.0
    for now, name in given.requests:
        if name in held:
            hits += 1
        else:
            reload_s += given.load_s[name] if name in seen else 0.0
            _evict_for(policy, given, held, budget - given.sizes[name], now)
            held.add(name)
            seen.add(name)
        policy.record_use(name, now)
    return hits / len(given.requests), reload_s


def _evict_for(policy: EvictionPolicy, given: Traffic, held: set[str], limit: int, now: float) -> None:
    while sum(given.sizes[name] for name in held) > limit:
        scores = {name: policy.eviction_score(name, given.sizes[name], given.load_s[name], now) for name in held}
        victim = min(held, key=lambda name: (scores[name], name))
        held.remove(victim)
        if isinstance(policy, GreedyDualSizeFrequency):
            policy.evicted(scores[victim], victim)


POLICIES: dict[str, Callable[[], EvictionPolicy]] = {
    "LRU by bytes": LeastRecentlyUsed,
    "cost ÷ bytes ÷ idle time": CostOverIdle,
    "GDSF": GreedyDualSizeFrequency,
    # Ours, by how soon a use counts half.
    **{f"decayed uses, {half}": partial(CostAware, half) for half in (100, 200, 400, 1200, 5000)},
}


def main() -> None:
    print(f"{'':28}{'hits':>8}{'reload s':>10}{'hits, drift':>14}{'reload s, drift':>17}")
    for name, make in POLICIES.items():
        figures = []
        for drift in (False, True):
            results = [run(make(), traffic(seed, drift)) for seed in SEEDS]
            figures += [
                sum(hits for hits, _ in results) / len(results),
                sum(cost for _, cost in results) / len(results),
            ]
        print(f"{name:28}{figures[0]:8.3f}{figures[1]:10.1f}{figures[2]:14.3f}{figures[3]:17.1f}")


if __name__ == "__main__":
    main()
