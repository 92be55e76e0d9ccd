"""Where models go: loaded as seldom as possible, what a replica says before what was sent to it, hot ones spread."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from deployments.replica.calls import Holdings
from serve_app.dispatch.placement import COMING_S, MAX_REMEMBERED, Placement, ReplicaMemory
from tests.serve_app.dispatch.simulated import Simulation, zipf


@dataclass
class Replica:
    under_way: int = 0
    models_in_use: set[str] = field(default_factory=set)
    memory: ReplicaMemory = field(default_factory=ReplicaMemory)

    def says(self, *models: str, free: float) -> None:
        self.memory.update(Holdings(frozenset(models), free))


def placed(target: float = 2, count: int = 2) -> tuple[Placement, list[Replica]]:
    return Placement(target), [Replica() for _ in range(count)]


def loads(replicas: int, room: int, callers: int, models: int, seed: int, **options: Any) -> Simulation:
    simulation = Simulation(replicas, room, callers, zipf(models, seed), **options)
    simulation.run(2000)
    assert simulation.most_held <= room
    return simulation


@pytest.mark.parametrize("callers", [1, 8, 16, 64])
@pytest.mark.parametrize("seed", range(3))
def test_twelve_models_on_four_replicas_with_room_for_four_each_are_loaded_18_times_at_most(
    callers: int, seed: int
) -> None:
    assert sum(loads(4, 4, callers, 12, seed).loads.values()) <= 18


@pytest.mark.parametrize("callers", [1, 8, 16])
@pytest.mark.parametrize("seed", range(3))
def test_models_that_just_fit_on_two_replicas_are_loaded_once_each(callers: int, seed: int) -> None:
    assert set(loads(2, 3, callers, 6, seed).loads.values()) == {1}


@pytest.mark.parametrize("seed", range(6))
def test_of_the_first_calls_of_many_callers_no_copy_is_made_that_takes_the_room_of_others(seed: int) -> None:
    assert sum(loads(2, 3, 64, 6, seed).loads.values()) == 6


@pytest.mark.parametrize(("callers", "most"), [(8, 300), (16, 300), (64, 180)])
@pytest.mark.parametrize("seed", range(3))
def test_with_room_for_sixteen_of_24_models_the_loads_are_little_more_than_the_least(
    callers: int, most: int, seed: int
) -> None:
    """One by one, some 240 are the least for whoever knows how often each is asked for, but not when."""
    assert sum(loads(4, 4, callers, 24, seed, load_s=0.5, service_s=0.1).loads.values()) <= most


def test_a_hot_model_spreads_over_all_replicas() -> None:
    simulation = Simulation(4, 4, 64, lambda: "hot", target=8)
    simulation.run(2000)
    assert simulation.loads == {"hot": 4}


def test_a_model_that_is_no_longer_hot_rests_on_all_replicas_but_one() -> None:
    placement, replicas = placed(target=10)
    for replica in replicas:
        replica.says("was hot", "other", free=0.8)
    for _ in range(200):
        placement.best("other", replicas, 0)
    assert {placement.best("was hot", replicas, 0) for _ in range(10)} == {0}
    replicas[0].under_way = 10
    assert placement.best("was hot", replicas, 0) == 1


def test_what_a_replica_says_that_it_evicted_is_not_held_although_it_was_sent_there_lately() -> None:
    placement, (a, b) = placed()
    a.says(free=1.0)
    b.says(free=0.9)
    assert placement.best("m", [a, b], 0) == 0
    a.says("m", free=0.5)
    assert placement.best("m", [a, b], 0.5) == 0
    a.says("x", free=0.5)
    assert placement.best("m", [a, b], 1.0) == 1


def test_a_replica_that_says_nothing_yet_of_what_was_sent_holds_it_for_a_while() -> None:
    memory = ReplicaMemory()
    memory.update(Holdings())
    memory.sent("m", 0)
    memory.update(Holdings())
    assert "m" in memory.models(COMING_S - 1)
    assert "m" not in memory.models(COMING_S)


def test_without_room_a_model_replaces_the_one_that_is_asked_for_least() -> None:
    placement, replicas = placed(target=100, count=3)
    for replica, models in zip(replicas, (["a", "b"], ["c", "d"], ["e", "f"]), strict=True):
        replica.says(*models, free=0.0)
    for model in "aabbcceeff" * 5:  # `d` never
        placement.best(model, replicas, 0)
    assert placement.best("new", replicas, 0) == 1


def test_without_room_a_model_replaces_none_that_a_call_uses_now_for_its_replica_would_evict_another() -> None:
    placement, replicas = placed(target=100)
    for replica, models in zip(replicas, (["rare", "often"], ["common", "often too"]), strict=True):
        replica.says(*models, free=0.0)
    for model in ["rare", *["common"] * 5, *["often", "often too"] * 10]:
        placement.best(model, replicas, 0)
    replicas[0].models_in_use = {"rare"}
    assert placement.best("new", replicas, 0) == 1
    replicas[0].models_in_use = set()
    assert placement.best("another", replicas, 0) == 0


def test_a_family_without_models_takes_the_replica_with_the_fewest_calls() -> None:
    placement, replicas = placed()
    replicas[0].under_way = 1
    assert placement.best("", replicas, 0) == 1


def test_counts_are_bounded_in_number_and_size() -> None:
    placement, replicas = placed(target=1e9)
    for number in range(MAX_REMEMBERED + 1000):
        placement._weight *= 1.1 if number % 2 else 1.0
        placement.best(f"m{number}", replicas, number * COMING_S)
    assert len(placement._uses) <= MAX_REMEMBERED
    assert placement._weight < 1e201
