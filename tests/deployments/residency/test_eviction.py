"""The eviction score: seconds of loading that a byte saves."""

from deployments.residency.eviction import MAX_REMEMBERED, CostAware


def used(*names: str, half_life: int = 200) -> CostAware:
    policy = CostAware(half_life)
    for name in names:
        policy.record_use(name, 0.0)
    return policy


def test_what_is_used_more_often_costs_more_to_load_or_is_smaller_scores_higher() -> None:
    policy = used("often", "rare", "often")
    score = policy.eviction_score("rare", 10, 1.0, 0.0)
    assert policy.eviction_score("often", 10, 1.0, 0.0) > score
    assert policy.eviction_score("rare", 10, 2.0, 0.0) > score
    assert policy.eviction_score("rare", 5, 1.0, 0.0) > score
    assert policy.eviction_score("never used", 1, 100.0, 0.0) < score


def test_a_use_counts_half_after_the_half_life() -> None:
    policy = used("old", "new", "new", half_life=2)
    # One use, two uses ago, weighs half of one use now.
    assert policy.eviction_score("old", 1, 2.0, 0.0) == used("once").eviction_score("once", 1, 1.0, 0.0)


def test_the_order_of_models_that_were_not_used_for_long_is_kept() -> None:
    """As plain numbers both scores would underflow to zero."""
    policy = used("older", "younger", *["other"] * 5000, half_life=1)
    assert policy.eviction_score("older", 1, 1.0, 0.0) < policy.eviction_score("younger", 1, 1.0, 0.0)


def test_so_many_models_are_remembered_and_the_latest_ones() -> None:
    policy = CostAware()
    policy.record_use("early and late", 0.0)
    for number in range(MAX_REMEMBERED):
        policy.record_use(f"m{number}", 0.0)
        policy.record_use("early and late", 0.0)
    assert len(policy._uses) == MAX_REMEMBERED
    last = policy.eviction_score(f"m{MAX_REMEMBERED - 1}", 1, 1.0, 0.0)
    assert policy.eviction_score("early and late", 1, 1.0, 0.0) > last
