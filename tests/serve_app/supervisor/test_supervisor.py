"""What it starts, it watches; what dies is started anew; nothing is left behind. The runtime here is program.py."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from deployments.system.lifetime import is_running
from serve_app.supervisor.supervisor import GIVEN_UP
from tests.support import PROJECT, sweep
from tests.support.until import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux' kernel")


@dataclass(frozen=True)
class Life:
    """What one start of the runtime says of itself."""

    anew: bool
    runtime: int
    watchdog: int
    raylet: int
    orphan: int

    @property
    def pids(self) -> tuple[int, ...]:
        return self.runtime, self.watchdog, self.raylet, self.orphan


@contextmanager
def supervised(how: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.serve_app.supervisor.program", how]
    process = subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip()


def life(process: subprocess.Popen[str]) -> Life:
    said, anew, *pids = line(process).split()
    assert said == "started"
    return Life(anew == "True", *map(int, pids))


def ended(pids: tuple[int, ...]) -> None:
    wait_until(lambda: not any(map(is_running, pids)), "all processes end")


@pytest.mark.parametrize("number", sweep([signal.SIGINT, signal.SIGTERM], signal.SIGTERM))
def test_a_signal_ends_the_runtime_in_good_order_with_one_line(number: int) -> None:
    with supervised("serves") as process:
        first = life(process)
        os.killpg(process.pid, number)
        out, error = process.communicate(timeout=60)
        assert (out.splitlines(), error) == (["stopping …", "in good order", "stopped"], "")
        assert process.returncode == 0
        ended(first.pids)


@pytest.mark.parametrize("victim", sweep(["raylet", "runtime", "watchdog"], "raylet"))
def test_what_dies_is_started_anew_and_nothing_of_before_is_left(victim: str) -> None:
    with supervised("serves") as process:
        first = life(process)
        os.kill(getattr(first, victim), signal.SIGKILL)
        reason = "raylet died" if victim == "raylet" else "the runtime's own process died"
        assert line(process) == f"{reason}: starting anew"
        second = life(process)
        assert (first.anew, second.anew) == (False, True)
        ended(first.pids)
        assert all(map(is_running, second.pids))
        process.terminate()
        process.communicate(timeout=60)
        ended(second.pids)


def test_nothing_outlives_a_supervisor_that_is_killed() -> None:
    with supervised("serves") as process:
        first = life(process)
        process.kill()
        ended(first.pids)


def test_a_runtime_that_dies_three_times_is_given_up_with_the_reason() -> None:
    with supervised("dies") as process:
        out, error = process.communicate(timeout=60)
        assert out.count("started") == 3
        assert error == "the runtime's own process died: the third death within five minutes; giving up\n"
        assert process.returncode == GIVEN_UP


def test_a_runtime_that_refuses_to_start_is_not_started_again() -> None:
    with supervised("refuses") as process:
        assert process.communicate(timeout=60) == ("", "the port is taken\n")
        assert process.returncode == 1


def test_a_runtime_that_falls_silent_is_started_anew() -> None:
    with supervised("silent") as process:
        first = life(process)
        assert line(process).startswith("no answer for ")
        assert life(process).anew
        ended(first.pids)


def test_sighup_reaches_the_runtime() -> None:
    with supervised("serves") as process:
        life(process)
        process.send_signal(signal.SIGHUP)
        assert line(process) == "reload"
