"""Processes end with their parent, or with those who have adopted them."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from deployments.system.lifetime import is_running
from tests.support import PROJECT
from tests.support.until import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux' kernel")

ADOPTS = """
import subprocess, sys
from deployments.system.lifetime import adopt_orphans, end_descendants
adopt_orphans()
orphan = int(subprocess.run(["sh", "-c", "setsid sleep 1000 > /dev/null 2>&1 & echo $!"], capture_output=True).stdout)
child = subprocess.Popen(["sleep", "1000"])
spared = subprocess.Popen(["sleep", "1000"])
end_descendants([spared.pid])
print(orphan, child.pid, spared.pid, flush=True)
sys.stdin.read()
spared.kill()
"""

PARENT = """
import os, subprocess, sys
from functools import partial
from deployments.system.lifetime import end_with_parent
print(subprocess.Popen(["sleep", "1000"], preexec_fn=partial(end_with_parent, os.getpid())).pid, flush=True)
sys.stdin.read()
"""


def started(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def said(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdout is not None
    return [int(number) for number in process.stdout.readline().split()]


def test_descendants_end_and_so_do_those_whose_own_parent_has_ended() -> None:
    with started(ADOPTS) as process:
        orphan, child, spared = said(process)
        assert [psutil.pid_exists(pid) for pid in (orphan, child, spared)] == [False, False, True]


def test_a_process_ends_with_its_parent_even_by_sigkill() -> None:
    with started(PARENT) as process:
        (child,) = said(process)
        assert is_running(child)
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not is_running(child))


def test_an_entry_that_nobody_has_read_is_no_running_process() -> None:
    with subprocess.Popen(["true"]) as process:
        wait_until(lambda: not is_running(process.pid))
    assert not is_running(process.pid)
    assert is_running(os.getpid())
