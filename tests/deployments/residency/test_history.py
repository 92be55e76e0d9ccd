"""What is remembered of each model, and for how long a failure answers requests."""

import pytest

from deployments.contract.errors import ModelLoadFailed, OutOfMemory
from deployments.residency.history import MAX_BACK_OFF_S, MAX_RECORDS, MIN_BACK_OFF_S, LoadHistory, LoadRecord
from deployments.residency.ledger import MIB
from tests.deployments.residency.fakes import model


def test_the_back_off_doubles_with_each_failure_up_to_its_maximum_and_ends_with_a_load() -> None:
    record = LoadRecord("m", "digest")
    back_offs = [record.add_failure(ModelLoadFailed.for_now("broken"), now=0.0).back_off_s for _ in range(8)]
    assert back_offs == [MIN_BACK_OFF_S * 2**n for n in range(6)] + [MAX_BACK_OFF_S] * 2
    record.add_load(1.0, 10)
    assert record.failure is None
    assert record.add_failure(ModelLoadFailed.for_now("broken"), now=0.0).back_off_s == MIN_BACK_OFF_S


def test_a_failure_answers_until_its_back_off_ends_and_says_when_to_ask_again() -> None:
    record = LoadRecord("m", "digest")
    failure = record.add_failure(ModelLoadFailed.for_now("broken"), now=10.0)
    assert record.failure_at(10.0 + MIN_BACK_OFF_S - 0.5) is failure
    assert failure.error_at(10.0 + MIN_BACK_OFF_S - 0.5).retry_after_ms == 500
    assert record.failure_at(10.0 + MIN_BACK_OFF_S) is None


def test_a_failure_that_no_retry_mends_has_no_retry_after() -> None:
    failure = LoadRecord("m", "digest").add_failure(OutOfMemory("too large"), now=0.0)
    assert failure.error_at(0.0).retry_after_ms is None


def test_a_load_needs_what_the_last_one_measured_else_what_is_declared() -> None:
    history, known = LoadHistory(), model("m", 10)
    assert history.size_of(known) == 10 * MIB
    history[known.key].add_load(1.0, 12 * MIB)
    assert history.size_of(known) == 12 * MIB
    assert history.size_of(model("m", 10, digest="other")) == 10 * MIB


def test_a_model_with_which_the_kernel_killed_a_replica_needs_what_that_had_taken_unless_more_was_measured() -> None:
    history, known = LoadHistory(), model("m", 10)
    history.outgrown = {known.key: 30 * MIB}.get
    history.learn(known)
    assert history.size_of(known) == 30 * MIB
    history[known.key].add_load(1.0, 40 * MIB)
    history.learn(known)
    assert history.size_of(known) == 40 * MIB
    history.learn(model("n", 10))
    assert history.keys() == {known.key}


def test_the_speed_of_loads_is_their_bytes_by_their_seconds() -> None:
    history = LoadHistory()
    assert history.bytes_per_s is None
    history["a#1"].add_load(1.0, 100)
    history["b#1"].add_load(3.0, 500)
    assert history.bytes_per_s == 150


def test_the_lease_time_is_a_moving_average() -> None:
    record = LoadRecord("m", "digest")
    for _ in range(50):
        record.add_lease(4.0)
    assert record.lease_s == pytest.approx(4.0, abs=0.01)


def test_the_oldest_records_are_dropped_but_not_those_of_models_in_memory() -> None:
    history = LoadHistory()
    for number in range(MAX_RECORDS + 2):
        history[f"m{number}#1"].loads = 1
    history.prune(keep={"m0#1"})
    assert len(history) == MAX_RECORDS
    assert "m0#1" in history
    assert not {"m1#1", "m2#1"} & history.keys()


def test_a_look_at_a_record_does_not_create_it() -> None:
    history = LoadHistory()
    assert history.peek("m#1").loads == 0
    assert not history
    assert (history["org/m@2#1"].name, history["org/m@2#1"].digest) == ("org/m@2", "1")
