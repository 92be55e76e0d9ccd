"""The accounts: what may be promised, what may be loaded, and which models are chosen as victims."""

import pytest

from deployments.contract.errors import OutOfMemory
from deployments.residency.ledger import MIB, HeadReservation, Ledger, Limit, State


def filled(*sizes: int, leased: bool = False) -> Ledger:
    """A ledger of 100 bytes whose models are ready, named by their numbers."""
    ledger = Ledger(Limit(100))
    for number, size in enumerate(sizes):
        name = str(number)
        ledger.reserve(name, size)
        assert ledger.begin_load(name)
        ledger.finish_load(name)
        if leased:
            ledger.lease(name)
    return ledger


def test_a_load_begins_only_when_its_promised_memory_is_free() -> None:
    ledger = filled(60)
    ledger.begin_unload("0")
    ledger.reserve("new", 80)
    assert (ledger.promised_bytes, ledger.used_bytes) == (80, 60)
    assert not ledger.begin_load("new")
    ledger.forget("0")
    assert ledger.begin_load("new")
    assert ledger.entries["new"].state is State.LOADING
    assert (ledger.promised_bytes, ledger.used_bytes) == (80, 80)


def test_no_more_is_promised_than_the_budget() -> None:
    ledger = filled(60)
    with pytest.raises(AssertionError, match="promised more than the budget"):
        ledger.reserve("new", 41)


def test_a_leased_model_cannot_be_unloaded() -> None:
    ledger = filled(60, leased=True)
    with pytest.raises(AssertionError, match="a leased model is never unloaded"):
        ledger.begin_unload("0")


def test_victims_have_the_lowest_scores_and_none_is_superfluous() -> None:
    ledger = filled(10, 20, 70)
    assert ledger.victims_for(65, 0, float) == ["2"], "with 70 bytes from the third, the first two are not needed"
    assert ledger.victims_for(25, 0, float) == ["0", "1"]
    assert ledger.victims_for(25, 0, lambda name: -float(name)) == ["2"]


def test_victims_are_neither_leased_nor_pinned_nor_protected_nor_reserved_for_another() -> None:
    ledger = filled(25, 25, 25, 25)
    ledger.lease("0")
    ledger.entries["1"].pinned = True
    ledger.entries["2"].protected_until = 5
    assert ledger.victims_for(25, 0, float) == ["3"]
    assert ledger.victims_for(50, 0, float) is None
    assert ledger.victims_for(50, 5, float) == ["2", "3"]
    assert ledger.victims_for(25, 0, float, HeadReservation(frozenset("3"))) is None


def test_a_size_that_never_fits_beside_pinned_models_is_an_error() -> None:
    ledger = Ledger(Limit(100 * MIB))
    ledger.reserve("pinned", 60 * MIB, pinned=True)
    with pytest.raises(OutOfMemory, match="needs 50 MiB beside 60 MiB pinned, .* have to be 110"):
        ledger.victims_for(50 * MIB, 0, float)


def test_a_reservation_takes_leased_models_only_where_idle_ones_and_free_bytes_do_not_suffice() -> None:
    ledger = filled(30, 30, 30)
    ledger.lease("0")
    assert ledger.reservation_for(70, float) == HeadReservation(frozenset("12"), 10)
    assert ledger.reservation_for(71, float) == HeadReservation(frozenset("012"), 0)
    assert ledger.reservation_for(5, float) == HeadReservation(frozenset(), 5)


def test_a_model_may_grow_only_within_both_sums() -> None:
    ledger = filled(40, 30)
    ledger.begin_unload("1")
    ledger.reserve("new", 50)
    assert not ledger.resize("0", 51), "the new model is promised the rest"
    assert ledger.resize("0", 50)
    assert not ledger.resize("new", 10), "it is not in memory yet"
    assert ledger.resize("0", 20), "less is always granted"


def test_a_model_that_measures_more_than_it_reserved_is_counted_in_full() -> None:
    ledger = filled(60)
    ledger.set_size("0", 120)
    assert (ledger.used_bytes, ledger.over_bytes, ledger.free_bytes) == (120, 20, -20)


def test_a_refusal_names_the_setting_what_it_is_and_what_it_would_have_to_be() -> None:
    limit = Limit(2048 * MIB, "families.text_generation.required_mem_mb", "2048")
    assert limit.refusal(3000 * MIB + 1, 100 * MIB).message == (
        "needs 3000 MiB beside 100 MiB pinned, the budget is 2048 MiB: "
        "families.text_generation.required_mem_mb is 2048 and would have to be 3101"
    )
    share = Limit(20 * 1024 * MIB, "families.text_generation.num_gpus", "0.25", 80 * 1024 * MIB)
    assert share.refusal(30 * 1024 * MIB).message.endswith("num_gpus is 0.25 and would have to be 0.38")
    assert share.refusal(81 * 1024 * MIB).message == (
        "needs 82944 MiB, the budget is 20480 MiB: "
        "families.text_generation.num_gpus is 0.25 and a whole GPU would be 81920 MiB"
    )
