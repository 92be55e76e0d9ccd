"""The private folder of a running `model-runtime serve`, and what is left of those that were killed."""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PREFIX = "mr-"
LOCK = "launcher.lock"
PLACES = ("/tmp", "/dev/shm")
"""Where folders may lie, beside the folder for temporary files."""
SHARED_MEMORY = Path("/dev/shm")
_OPENMP = re.compile(r"__KMP_REGISTERED_LIB_(\d+)_(\d+)")


@contextmanager
def private_folder(parent: Path) -> Iterator[Path]:
    """A new folder below `parent` until the end. Its lock is this process's, and tells others that it is there."""
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
    for file in SHARED_MEMORY.glob("__KMP_REGISTERED_LIB_*"):
        named = _OPENMP.fullmatch(file.name)
        if named and int(named[2]) == os.getuid() and not psutil.pid_exists(int(named[1])):
            file.unlink(missing_ok=True)


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
