"""CPU seconds go to the model whose threads used them; a share of the cores binds every thread."""

import subprocess
import sys
import threading
import time

from deployments.system.cpu import CpuMeter
from tests.support.project import PROJECT


def burn(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_threads_that_a_load_started_are_the_models_own() -> None:
    """And what they start in turn; what the load itself used is not counted."""
    meter = CpuMeter()
    go = threading.Event()

    def serve() -> None:
        go.wait()
        team = threading.Thread(target=lambda: (burn(0.2), done.wait()))
        team.start()
        burn(0.1)
        burnt.wait()

    done, burnt = threading.Event(), threading.Event()

    def load() -> None:
        with meter.threads_of("m"):
            burn(0.1)
            threading.Thread(target=serve).start()

    loading = threading.Thread(target=load)
    loading.start()
    loading.join()
    assert meter.sample().get("m", 0.0) < 0.05
    go.set()
    give_up = time.monotonic() + 30
    while meter.sample()["m"] < 0.3 and time.monotonic() < give_up:
        time.sleep(0.01)
    assert 0.3 <= meter.sample()["m"] < 0.4
    done.set()
    burnt.set()


def test_names_of_threads_do_not_add_up_with_loads() -> None:
    meter = CpuMeter()

    def load() -> None:
        with meter.threads_of("m"):
            pass

    for _ in range(5):
        loading = threading.Thread(target=load)
        loading.start()
        loading.join()
    assert len(meter._models) == 2  # of the old content and the new, which may be there at once


def test_work_in_a_shared_thread_is_the_models_it_was_done_for() -> None:
    meter = CpuMeter()

    def work() -> None:
        meter.measured("a", burn)(0.1)
        burn(0.1)
        meter.measured("b", burn)(0.05)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    seconds = meter.sample()
    assert 0.1 <= seconds["a"] < 0.15
    assert 0.05 <= seconds["b"] < 0.1


def test_the_team_of_a_shared_thread_is_counted_with_it() -> None:
    """OpenMP's workers, of one matrix product after another."""
    check = """
import concurrent.futures, time, torch
from deployments.system.cpu import CpuMeter
torch.set_num_threads(2)
a = torch.rand(700, 700)
def product():
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        a @ a
meter = CpuMeter()
with concurrent.futures.ThreadPoolExecutor(1) as pool:
    pool.submit(meter.measured("first", product)).result()
    time.sleep(1.1)
    before = time.process_time()
    pool.submit(meter.measured("m", product)).result()
    print(meter.sample()["m"] / (time.process_time() - before))
"""
    run = subprocess.run([sys.executable, "-c", check], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert 0.9 < float(run.stdout) < 1.1


def test_a_share_of_the_cores_binds_threads_that_run_already_and_the_pools_of_libraries() -> None:
    check = """
import os, threading
stay = threading.Event()
threading.Thread(target=stay.wait, daemon=True).start()
from deployments.system.cores import limit_cores
limit_cores(0.01)
from tokenizers import Tokenizer, models
Tokenizer(models.BPE()).encode_batch(["a"] * 100)
print({len(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")})
"""
    run = subprocess.run([sys.executable, "-c", check], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "{1}"
