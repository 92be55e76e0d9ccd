"""How long processes live: until their parent ends, or until whoever is responsible for them ends them. Linux."""

import ctypes
import os
import signal
from collections.abc import Collection
from contextlib import suppress

import psutil

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
KILLS = 10
ENDED_WITHIN_S = 2.0
"""A process that does not end within KILLS times this, for want of a disk, is left to the system."""


def end_with_parent(parent: int) -> None:
    """In a new process: the kernel kills it when the thread that started it ends. `parent` is the id of its process."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it had ended before that
        os._exit(1)


def adopt_orphans() -> None:
    """Every process below this one stays below it, also when the process that started it ends."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_descendants(spared: Collection[int | None] = ()) -> None:
    """Kills every process below this one, and those that they start meanwhile."""
    for _ in range(KILLS):
        living = [child for child in psutil.Process().children(recursive=True) if child.pid not in spared]
        if not living:
            return
        for process in living:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(living, timeout=ENDED_WITHIN_S)


def is_running(pid: int) -> bool:
    """Whether the process is there and is more than an entry that its parent has not read yet."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
