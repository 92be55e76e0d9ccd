"""CPU seconds go to the models whose work is under way; a share of the cores binds every thread."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from deployments.system.cpu import CpuMeter, answer_at_once, machine_cpus, starting_observers
from tests.support import PROJECT


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(clock: Clock) -> CpuMeter:
    return CpuMeter(clock)


def test_a_model_that_works_alone_gets_all_that_the_process_uses_meanwhile(meter: CpuMeter, clock: Clock) -> None:
    clock.now_s = 1.0
    with meter.working("a"):
        clock.now_s = 4.0
        assert meter.sample() == {"a": 3.0}
        clock.now_s = 5.0
    clock.now_s = 9.0
    with meter.working("b"):
        clock.now_s = 11.0
    assert meter.sample() == {"a": 4.0, "b": 2.0}


def test_models_that_work_at_once_share_by_their_pieces_of_work(meter: CpuMeter, clock: Clock) -> None:
    with meter.working("a"), meter.working("a"), meter.working("a"), meter.working("b"):
        clock.now_s = 4.0
    assert meter.sample() == {"a": 3.0, "b": 1.0}


def test_pieces_that_one_thread_does_count_once(meter: CpuMeter, clock: Clock) -> None:
    with meter.working("a", one_thread=True), meter.working("b", one_thread=True), meter.working("a", one_thread=True):
        clock.now_s = 4.0
    assert meter.sample() == {"a": 2.0, "b": 2.0}


def test_the_part_of_a_load_is_no_models(meter: CpuMeter, clock: Clock) -> None:
    with meter.working(None):
        clock.now_s = 2.0
        with meter.working("a"):
            clock.now_s = 4.0
    assert meter.sample() == {"a": 1.0}


def test_work_that_raises_has_ended(meter: CpuMeter, clock: Clock) -> None:
    def fail() -> None:
        clock.now_s = 1.0
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        meter.working("a")(fail)()
    clock.now_s = 5.0
    assert meter.sample() == {"a": 1.0}


def test_threads_that_the_work_starts_count_for_its_model() -> None:
    def burn() -> None:
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            pass

    def work() -> None:
        threads = [threading.Thread(target=burn) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    meter = CpuMeter()
    meter.working("a")(work)()
    assert meter.sample()["a"] >= 0.2


def test_a_share_of_the_cores_binds_threads_that_run_already_and_the_pools_of_libraries() -> None:
    check = """
import os, threading
stay = threading.Event()
threading.Thread(target=stay.wait, daemon=True).start()
from deployments.system.cpu import limit_cores
limit_cores(0.01)
from tokenizers import Tokenizer, models
Tokenizer(models.BPE()).encode_batch(["a"] * 100)
print({len(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")})
"""
    run = subprocess.run([sys.executable, "-c", check], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "{1}"


ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("share", "cores"), [(0.01, 1), (0.5, max(1, ALL // 2)), (1.0, ALL)])
def test_a_process_is_limited_to_its_share_of_the_cores(share: float, cores: int) -> None:
    """In a process of its own, because the limit cannot be taken back."""
    check = (
        "import os; from deployments.system.cpu import limit_cores; "
        f"print(limit_cores({share}), len(os.sched_getaffinity(0)))"
    )
    run = subprocess.run([sys.executable, "-c", check], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(cores)] * 2


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "9900000 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_a_machine_has_as_many_cpus_as_its_cgroup_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cpus: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert machine_cpus(tmp_path) == cpus


POLICIES = """
import os, sys, threading
from deployments.system.cpu import answer_at_once
policies, done = [], threading.Event()
thread = threading.Thread(target=done.wait)
thread.start()
policies += [os.sched_getscheduler(0), os.sched_getscheduler(thread.native_id)]
answer_at_once()
policies += [os.sched_getscheduler(0), os.sched_getscheduler(thread.native_id)]
done.set()
print(policies == [os.SCHED_BATCH] * 2 + [os.SCHED_OTHER] * 2)
"""


def test_what_only_observes_waits_for_its_turn_and_what_answers_does_not() -> None:
    with starting_observers():
        child = subprocess.run(
            [sys.executable, "-c", POLICIES], cwd=PROJECT, capture_output=True, text=True, check=True
        )
    assert child.stdout == "True\n"
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    answer_at_once()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_machine_that_allows_no_other_policy_starts_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: int, policy: int, parameters: os.sched_param) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refused)
    with starting_observers():
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
