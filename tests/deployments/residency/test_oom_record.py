"""What a replica that the kernel killed had taken for its model is the model's size from then on."""

import fcntl
import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.residency.footprint import Footprint
from deployments.residency.ledger import MIB, Ledger, Limit
from deployments.residency.oom_record import KEPT_S, MORE, OomRecord
from tests.deployments.residency.test_footprint import Process
from tests.support.clock import Clock

STATED_MB = 50


class Replica:
    """A process that rests at 400 MiB; `load` and `use` are what its ledger says of a model."""

    def __init__(self, cache: Path, kills: list[int], clock: Clock) -> None:
        self.process = Process()
        self.ledger = Ledger(Limit(1000 * MIB))
        footprint = Footprint(self.process, self.ledger, STATED_MB * MIB)
        self.record = OomRecord(cache, footprint, lambda: kills[0], clock)

    def load(self, key: str, known_mb: int) -> None:
        self.ledger.reserve(key, known_mb * MIB)
        self.ledger.begin_load(key)

    def holds(self, mb: int) -> None:
        """Beside what it states for itself; and this is seen."""
        self.process.mb = 400 + STATED_MB + mb
        self.record.look()

    def die(self) -> None:
        assert self.record._file is not None
        fcntl.flock(self.record._file, fcntl.LOCK_UN)


@pytest.fixture
def kills() -> list[int]:
    """How many processes the kernel has killed."""
    return [3]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def replica(tmp_path: Path, kills: list[int], clock: Clock) -> Replica:
    return Replica(tmp_path, kills, clock)


@pytest.fixture
def other(tmp_path: Path, kills: list[int], clock: Clock) -> Replica:
    return Replica(tmp_path, kills, clock)


def size_mb(replica: Replica, key: str = "m#1") -> float | None:
    size = replica.record.size_of(key)
    return None if size is None else size / MIB


def test_a_model_that_was_being_loaded_counts_as_more_than_its_process_had_taken_for_it(
    replica: Replica, other: Replica, kills: list[int], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "model_runtime")
    replica.load("m#1", 100)
    replica.holds(40)
    replica.holds(300)
    replica.holds(200)  # The most counts.
    assert size_mb(other) is None, "it lives"
    replica.die()
    kills[0] += 1
    assert size_mb(other) == 300 * MORE
    assert size_mb(other, "m#2") is None, "another content"
    (line,) = caplog.messages
    assert line.endswith("m, known as 100 MiB, had taken 300; it counts as 375 MiB now")
    clock.now += KEPT_S
    assert size_mb(other) is None, "the machine may have more memory by now"


def test_a_model_in_use_that_has_grown_counts_as_what_it_had_grown_to(
    replica: Replica, other: Replica, kills: list[int]
) -> None:
    replica.load("idle#1", 50)
    replica.ledger.finish_load("idle#1")
    replica.load("m#1", 100)
    replica.ledger.finish_load("m#1")
    replica.ledger.lease("m#1")
    replica.holds(250)
    replica.die()
    kills[0] += 1
    assert size_mb(other) == 200 * MORE, "without the model beside it"


@pytest.mark.parametrize(("held_mb", "killed"), [(300, 0), (70, 1)], ids=["by somebody", "with little of it"])
def test_a_model_that_is_not_at_fault_keeps_its_size(
    replica: Replica, other: Replica, kills: list[int], held_mb: int, killed: int
) -> None:
    replica.load("m#1", 100)
    replica.holds(held_mb)
    replica.die()
    kills[0] += killed
    assert size_mb(other) is None
    kills[0] += 1
    assert size_mb(other) is None, "a later kill is another's"


def test_of_two_models_that_are_busy_none_is_taken_to_be_at_fault(
    replica: Replica, other: Replica, kills: list[int]
) -> None:
    for key in ("m#1", "n#1"):
        replica.load(key, 100)
        replica.holds(900)
    replica.die()
    kills[0] += 1
    assert (size_mb(other), size_mb(other, "n#1")) == (None, None)


def test_a_load_that_has_ended_is_not_held_against_the_model(
    replica: Replica, other: Replica, kills: list[int]
) -> None:
    replica.load("m#1", 100)
    replica.holds(300)
    replica.ledger.finish_load("m#1")
    replica.record.look()
    replica.die()
    kills[0] += 1
    assert size_mb(other) is None


def test_a_gpus_models_say_nothing_of_the_machines_memory(replica: Replica, other: Replica) -> None:
    replica.record.use_gpu()
    replica.load("m#1", 100)
    replica.holds(300)
    assert list(replica.record.folder.iterdir()) == []


def test_a_broken_note_is_removed(replica: Replica) -> None:
    (replica.record.folder / "left").write_text('{"model": ')
    assert size_mb(replica) is None
    assert list(replica.record.folder.iterdir()) == []


def test_a_process_that_is_killed_in_a_load_leaves_its_note(tmp_path: Path, other: Replica, kills: list[int]) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from tests.deployments.residency.test_oom_record import Replica
from tests.support.clock import Clock
replica = Replica(Path(sys.argv[1]), [3], Clock())
replica.load("m#1", 100)
replica.process.mb = 850
with replica.record.looking():
    os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    kills[0] += 1
    assert size_mb(other) == 400 * MORE
