"""The private folders of `model-runtime serve` and of a cluster's nodes, and what is left of those that were killed."""

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PREFIX = "mr-"
NODE_PREFIX = "mrn-"
"""Of the folder of `model-runtime exec`. The program that it becomes names the folder in its environment, as do all
processes that this one starts. On the other nodes Serve's HAProxy names it in its arguments."""
YOUNG_S = 60.0
"""A node's folder may be so old before a process names it."""
LOCK = "launcher.lock"
PLACES = ("/tmp", "/dev/shm")
"""Where folders may lie, beside the folder for temporary files."""
SHARED_MEMORY = Path("/dev/shm")
_OPENMP = re.compile(r"__KMP_REGISTERED_LIB_(\d+)_(\d+)")


@contextmanager
def private_folder(parent: Path) -> Iterator[Path]:
    """A new folder below `parent` until the end. This process holds its lock, by which others see that it is in use."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def clear_left() -> None:
    """Removes the folders of those that were killed, and OpenMP's files of processes that are gone."""
    for parent in {tempfile.gettempdir(), *PLACES}:
        for folder in Path(parent).glob(f"{PREFIX}*"):
            if _is_left(folder):
                shutil.rmtree(folder, ignore_errors=True)
    for folder in _nodes_left():
        shutil.rmtree(folder, ignore_errors=True)
    for file in SHARED_MEMORY.glob("__KMP_REGISTERED_LIB_*"):
        named = _OPENMP.fullmatch(file.name)
        if named and int(named[2]) == os.getuid() and not psutil.pid_exists(int(named[1])):
            file.unlink(missing_ok=True)


def _nodes_left() -> list[Path]:
    """The folders of nodes of which no process is left."""
    old = time.time() - YOUNG_S
    folders = [folder for parent in PLACES for folder in Path(parent).glob(f"{NODE_PREFIX}*") if _is_old(folder, old)]
    named = []
    for process in psutil.process_iter() if folders else ():
        with suppress(psutil.Error):
            named.append("\n".join((*process.environ().values(), *process.cmdline())))
    return [folder for folder in folders if not any(str(folder) in words for words in named)]


def _is_old(folder: Path, at: float) -> bool:
    """Whether it is this user's and from before then."""
    with suppress(OSError):
        stat = folder.stat()
        return stat.st_uid == os.getuid() and stat.st_mtime < at
    return False


def _is_left(folder: Path) -> bool:
    with suppress(OSError):
        lock = os.open(folder / LOCK, os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
    return False
