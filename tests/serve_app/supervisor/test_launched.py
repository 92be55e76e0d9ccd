"""A process that another one starts for itself: it says what it says there, and ends with it."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from deployments.system.lifetime import is_running
from serve_app.supervisor.launched import Launched
from tests.support import PROJECT
from tests.support.until import wait_until

WAITS = """
import os, signal, sys
from deployments.system.lifetime import end_with_parent
end_with_parent(int(sys.argv[1]), signal.SIGTERM)
print("read", sys.stdin.read(), os.getpid(), flush=True)
signal.pause()
"""
"""A program that lives until it is told to end."""


def waiting() -> Launched:
    return Launched([sys.executable, "-c", WAITS, str(os.getpid())], "what it is given")


def test_what_it_says_is_printed_here_until_it_is_ended(capsys: pytest.CaptureFixture[str]) -> None:
    launched = waiting()
    wait_until(lambda: launched.said.startswith("read what it is given"))
    assert launched.running
    launched.end()
    assert not launched.running
    assert not is_running(int(launched.said.split()[-1]))
    assert capsys.readouterr().out == f"{launched.said}\n"


def test_it_outlives_the_thread_that_started_it_and_an_interrupt_of_its_group() -> None:
    made: list[Launched] = []
    thread = threading.Thread(target=lambda: made.append(waiting()))
    thread.start()
    thread.join()
    (launched,) = made
    wait_until(lambda: launched.said)
    assert os.getpgid(int(launched.said.split()[-1])) != os.getpgid(0)
    assert launched.running
    launched.end()


def test_one_that_has_ended_has_said_why() -> None:
    launched = Launched([sys.executable, "-c", "raise SystemExit('port: it is taken')"], "")
    wait_until(lambda: not launched.running)
    assert launched.said == "port: it is taken"
    launched.end()


def test_a_program_that_is_not_there_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        Launched(["/nowhere"], "")


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_process_that_started_it_whatever_ends_that(by: signal.Signals) -> None:
    program = "from tests.serve_app.supervisor.test_launched import waiting; import signal; waiting(); signal.pause()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], cwd=PROJECT, stdout=pipe, text=True) as starter:
        assert starter.stdout
        launched = int(starter.stdout.readline().split()[-1])
        starter.send_signal(by)
    wait_until(lambda: not is_running(launched))
