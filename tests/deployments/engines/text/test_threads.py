"""A pool that is held up shrinks, and grows again later. The clocks are played."""

import itertools
import os
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from deployments.engines.device import resize_openmp_pool, use_threads
from deployments.engines.text import threads
from deployments.engines.text.request import Event
from deployments.engines.text.threads import FIRST_REST_S, LONGEST_REST_S, WINDOW_S, Clocks, OpenMPPool
from tests.support import PROJECT
from tests.support.native_threads import native_threads
from tests.support.text_models import PROMPTS, Listener, ask, load_slots


@pytest.fixture(autouse=True)
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes that OpenMP is given."""
    sizes: list[int] = []
    monkeypatch.setattr(threads, "resize_openmp_pool", sizes.append)
    return sizes


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> list[Clocks]:
    clocks = [Clocks(0, 0, 0)]
    monkeypatch.setattr(Clocks, "now", lambda: clocks[-1])
    return clocks


class Machine:
    """Runs a pool. `own`, `process`: CPU seconds of its thread and of the process in a second."""

    def __init__(self, clocks: list[Clocks], pool: OpenMPPool) -> None:
        self.clocks = clocks
        self.pool = pool
        pool.adjust()

    def compute(self, own: float, process: float, wall: float = 1.01 * WINDOW_S) -> int:
        """For `wall` seconds; the size of the pool after it."""
        last = self.clocks[-1]
        self.clocks.append(Clocks(last.wall + wall, last.own + own * wall, last.process + process * wall))
        self.pool.adjust()
        return self.pool.size

    @property
    def now(self) -> float:
        return self.clocks[-1].wall


def test_a_pool_that_has_its_cores_keeps_its_size(pass_time: list[Clocks], sizes: list[int]) -> None:
    machine = Machine(pass_time, OpenMPPool(4))
    assert {machine.compute(0.9, 3.8) for _ in range(50)} == {4}
    assert not sizes


@pytest.mark.parametrize(("own", "process"), [(0.5, 4.0), (0.95, 3.3)], ids=["its own thread", "another thread"])
def test_a_pool_that_is_held_up_shrinks_by_one_thread_at_a_time(
    own: float, process: float, pass_time: list[Clocks], sizes: list[int]
) -> None:
    machine = Machine(pass_time, OpenMPPool(4))
    assert machine.compute(own, process) == 3
    assert machine.compute(0.95, 2.9) == 3, "enough for these"
    assert machine.compute(0.95, 2.2) == 2
    assert machine.compute(0.5, 0.6) == 1
    assert machine.compute(0.5, 0.5) == 1
    assert sizes == [3, 2, 1]


def test_a_pool_that_stays_held_up_grows_less_and_less_often(pass_time: list[Clocks]) -> None:
    machine = Machine(pass_time, OpenMPPool(2))
    tries: list[float] = []
    while machine.now < 60:
        if machine.compute(*((0.95, 1.0) if machine.pool.size == 1 else (0.5, 1.0))) == 2:
            tries.append(machine.now)
    rests = [after - before for before, after in pairwise([0.0, *tries])]
    assert rests[0] == pytest.approx(FIRST_REST_S + WINDOW_S, abs=2 * WINDOW_S)
    assert rests[1] > 1.5 * rests[0]
    assert rests[-1] == pytest.approx(LONGEST_REST_S + WINDOW_S, abs=2 * WINDOW_S)


def test_after_quiet_times_the_pool_grows_back_soon(pass_time: list[Clocks]) -> None:
    machine = Machine(pass_time, OpenMPPool(2))
    while machine.now < 60:
        machine.compute(*((0.95, 1.0) if machine.pool.size == 1 else (0.5, 1.0)))
    while machine.now < 80:
        machine.compute(0.95, 0.95 * machine.pool.size)
    assert machine.pool.size == 2
    assert machine.compute(0.5, 1.0) == 1
    held_up = machine.now
    while machine.compute(0.95, 1.0) == 1:
        pass
    assert machine.now - held_up < FIRST_REST_S + 2 * WINDOW_S


def test_pauses_are_no_part_of_a_window(pass_time: list[Clocks]) -> None:
    machine = Machine(pass_time, OpenMPPool(2))
    for _ in range(20):
        assert machine.compute(0.95, 1.9, wall=0.06) == 2
        machine.pool.pause()
        machine.clocks.append(machine.clocks[-1]._replace(wall=machine.now + 1))
        machine.pool.adjust()


def test_a_pool_of_one_thread_reads_no_clock(monkeypatch: pytest.MonkeyPatch, sizes: list[int]) -> None:
    monkeypatch.setattr(Clocks, "now", lambda: pytest.fail("it did"))
    OpenMPPool(1).adjust()
    assert not sizes


def test_a_loop_whose_thread_lacks_its_core_goes_on_with_fewer_threads(
    folder: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    wall = itertools.count(0.0, 1.01 * WINDOW_S)
    monkeypatch.setattr(Clocks, "now", lambda: Clocks(next(wall), 0, 0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    engine = load_slots(folder)
    try:
        ask(engine, PROMPTS[0], 4)
        assert sizes[:2] == [2, 1]
    finally:
        engine.close()


def test_other_threads_keep_their_pools() -> None:
    most = torch.get_num_threads()
    use_threads(most)
    seen: list[int] = []

    def compute() -> None:
        resize_openmp_pool(1)
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert (seen, torch.get_num_threads()) == ([1], most)


IDLE_ENGINE = """
import sys
from pathlib import Path
from deployments.engines.device import end_openmp_pool, use_threads
from tests.support.native_threads import native_threads, wait_until_ended
from tests.deployments.engines.text.test_threads import PoolWatcher
from tests.support.text_models import PROMPTS, SamplingOptions, load_slots

use_threads(2)
load_slots(Path(sys.argv[1])).close()  # With it come the threads that libraries keep for ever.
end_openmp_pool()
before = native_threads()
engine = load_slots(Path(sys.argv[1]))
wait_until_ended(before)
listener = PoolWatcher(before)
engine.submit(PROMPTS[0], 8, SamplingOptions(), listener)
listener.finished()
assert listener.seen, "no pool computed"
wait_until_ended(before)
engine.close()
"""


class PoolWatcher(Listener):
    """Computes with a pool in the engine's thread, and collects the threads that were started since `before`."""

    def __init__(self, before: set[int]) -> None:
        super().__init__()
        self.before = before
        self.seen: set[int] = set()

    def __call__(self, event: Event) -> None:
        torch.ones(1 << 20).sum()
        self.seen |= native_threads() - self.before
        super().__call__(event)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads cannot be listed here")
def test_an_idle_engine_has_no_pool(folder: Path) -> None:
    """An idle pool slows the steps of every other model. In a process of its own: other tests have pools too."""
    command = [sys.executable, "-c", IDLE_ENGINE, str(folder)]
    run = subprocess.run(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 0, run.stderr
