"""The memory of a process beside its models, and what unloads did not give back."""

import logging

import pytest

from deployments.residency.footprint import Footprint
from deployments.residency.ledger import MIB, Ledger, Limit


class Process:
    """A process of so many MiB."""

    def __init__(self) -> None:
        self.mb = 400

    def held(self) -> int:
        return self.mb * MIB

    def give_back(self) -> None:
        """Nothing."""


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def footprint(process: Process) -> Footprint:
    return Footprint(process, Ledger(Limit(100 * MIB)), stated_bytes=50 * MIB)


def test_growth_at_rest_after_the_first_unload_is_a_leak(footprint: Footprint, process: Process) -> None:
    process.mb = 420  # Libraries: there after the first unload, so they are no leak.
    footprint.update(unloads=1)
    assert (footprint.overhead_bytes, footprint.leaked_bytes) == (20 * MIB, 0)
    process.mb = 437
    footprint.update(unloads=2)
    assert footprint.leaked_bytes == 17 * MIB
    process.mb = 410
    footprint.update(unloads=3)
    process.mb = 412
    footprint.update(unloads=4)
    assert footprint.leaked_bytes == 2 * MIB, "counted from the least overhead at rest"


def test_a_model_in_use_is_no_leak(footprint: Footprint, process: Process) -> None:
    footprint.update(unloads=1)
    footprint.ledger.reserve("m", 30 * MIB)
    footprint.ledger.begin_load("m")
    process.mb = 445
    footprint.update(unloads=1)
    assert (footprint.overhead_bytes, footprint.leaked_bytes) == (15 * MIB, 0)


def test_the_resting_size_is_measured_again_when_libraries_are_imported(footprint: Footprint, process: Process) -> None:
    process.mb = 450
    footprint.measure_resting_size()
    assert (footprint.resting_bytes, footprint.overhead_bytes) == (450 * MIB, 0)


def test_an_overhead_above_the_stated_one_is_logged_once(
    footprint: Footprint, process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "model_runtime")
    for process.mb in (450, 451, 470):
        footprint.update(unloads=0)
    assert [record.getMessage() for record in caplog.records] == [
        "the process takes 51 MiB beside its models, 50 are usual"
    ]
