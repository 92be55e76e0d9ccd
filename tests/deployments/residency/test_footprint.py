"""What a replica's process takes beside its models, and what unloads did not give back."""

import logging

import pytest

from deployments.residency.footprint import Footprint
from deployments.residency.ledger import MIB, Ledger


class Held:
    """A process of so many MiB."""

    def __init__(self) -> None:
        self.mb = 400

    def held(self) -> int:
        return self.mb * MIB

    def give_back(self) -> None:
        """Nothing."""


@pytest.fixture
def process() -> Held:
    return Held()


@pytest.fixture
def footprint(process: Held) -> Footprint:
    return Footprint(process, Ledger(100 * MIB), stated_bytes=50 * MIB)


def test_what_unloads_did_not_give_back_is_counted_as_leaked(footprint: Footprint, process: Held) -> None:
    process.mb = 420  # libraries: seen after the first unload, they are no leak
    footprint.look(unloads=1)
    assert (footprint.overhead_bytes, footprint.leaked_bytes) == (20 * MIB, 0)
    process.mb = 437
    footprint.look(unloads=2)
    assert footprint.leaked_bytes == 17 * MIB
    process.mb = 410
    footprint.look(unloads=3)
    process.mb = 412
    footprint.look(unloads=4)
    assert footprint.leaked_bytes == 2 * MIB, "beyond the least that it was at rest"


def test_a_model_in_use_is_no_leak(footprint: Footprint, process: Held) -> None:
    footprint.look(unloads=1)
    footprint.ledger.reserve("m", 30 * MIB)
    footprint.ledger.begin("m")
    process.mb = 445
    footprint.look(unloads=1)
    assert (footprint.overhead_bytes, footprint.leaked_bytes) == (15 * MIB, 0)


def test_more_than_is_stated_is_told_once(
    footprint: Footprint, process: Held, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "model_runtime")
    for process.mb in (450, 451, 470):
        footprint.look(unloads=0)
    assert [record.getMessage() for record in caplog.records] == [
        "the process takes 51 MiB beside its models, 50 are usual"
    ]
