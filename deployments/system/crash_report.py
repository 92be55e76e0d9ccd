"""A process's report of its own crash, in a file that others read: a fatal signal leaves a traceback there. SIGKILL,
by an operator or for want of memory, and an exit leave nothing."""

import faulthandler
import os
from pathlib import Path


def report_crashes_to(path: Path) -> None:
    """From now on a SIGSEGV, SIGABRT, SIGBUS, SIGFPE or SIGILL of this process is reported there, and then ends it."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)  # open as long as the process
    # Enabled anew, it comes before handlers that others have set meanwhile, as Ray does.
    faulthandler.disable()
    faulthandler.enable(file, all_threads=False)


def crash_report(path: Path) -> str:
    """Empty where the process has not reported a crash."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
