"""A process that crashes says so in a file; one that is killed says nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.system.crash_report import crash_report

PROGRAM = """
import faulthandler, os, resource, signal, sys
from pathlib import Path
from deployments.system.crash_report import report_crashes_to
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
faulthandler.enable()
report_crashes_to(Path(sys.argv[1]))
os.kill(os.getpid(), getattr(signal, sys.argv[2])) if sys.argv[2] != "none" else None
"""


def report_of(path: Path, how: str) -> tuple[int, str]:
    process = subprocess.run([sys.executable, "-c", PROGRAM, str(path), how], check=False, capture_output=True)
    return process.returncode, crash_report(path)


@pytest.mark.parametrize("how", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"])
def test_a_fatal_signal_is_reported_and_ends_the_process(tmp_path: Path, how: str) -> None:
    status, report = report_of(tmp_path / "crash", how)
    assert status < 0
    assert report.startswith("Fatal Python error: ")
    assert "most recent call first" in report


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "none"])
def test_what_is_killed_or_ends_reports_nothing(tmp_path: Path, how: str) -> None:
    assert report_of(tmp_path / "crash", how)[1] == ""


def test_only_the_processes_user_reads_it_and_a_missing_one_is_empty(tmp_path: Path) -> None:
    report_of(tmp_path / "crash", "none")
    assert os.stat(tmp_path / "crash").st_mode & 0o077 == 0
    assert crash_report(tmp_path / "missing") == ""
