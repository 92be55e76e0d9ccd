"""The memory of this node, and its shares for the processes of the runtime that hold models on it."""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path, PurePosixPath

import psutil

from deployments.system.artifact_cache import private_folder

CGROUP, MOUNTS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_DRAFT = ".draft-"

logger = logging.getLogger("model_runtime.residency")


def node_memory(cgroup: Path = CGROUP, mounts: Path = MOUNTS) -> int:
    """Bytes that this process may use at most: the machine's memory, or the least limit of a cgroup that it is in."""
    return min([int(psutil.virtual_memory().total), *_limits(cgroup, mounts)])


def _limits(cgroup: Path, mounts: Path) -> Iterator[int]:
    lines = []
    with suppress(OSError):
        lines = cgroup.read_text("utf-8").splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # Version 2.
            place, name = mounts, "memory.max"
        elif "memory" in controllers.split(","):
            place, name = mounts / "memory", "memory.limit_in_bytes"
        else:
            continue
        for parent in (PurePosixPath(path), *PurePosixPath(path).parents):
            with suppress(OSError, ValueError):  # A path that is not mounted here; "max".
                yield int((place / str(parent).lstrip("/") / name).read_text("utf-8"))


class MemoryShares:
    """The processes on this node that hold models: a file for each, locked as long as it lives.

    One with a fixed share has that; the others have equal shares of the rest.
    """

    def __init__(self, folder: Path, fixed_bytes: int | None = None) -> None:
        """Raises PermissionError where others may write to `folder`."""
        self.folder = private_folder(folder)
        self.fixed_bytes = fixed_bytes
        self._file: int | None = None
        self._name = ""
        self._known: list[int | None] = []

    def join(self) -> None:
        """From now on this process counts; until it ends, or `leave`. On a disk that is full it does not."""
        if self._file is not None:
            return
        try:
            # Locked before it has a name that others look at: they remove files that nobody locks.
            self._file, draft = tempfile.mkstemp(prefix=_DRAFT, dir=self.folder)
            flock(self._file, LOCK_EX)
            os.write(self._file, str(self.fixed_bytes or "").encode())
            self._name = Path(draft).name.removeprefix(_DRAFT)
            Path(draft).rename(self.folder / self._name)
        except OSError as failure:
            logger.warning("other replicas of this node do not know of this one's memory (%s)", failure.strerror)

    def leave(self) -> None:
        if self._file is not None:
            (self.folder / self._name).unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def share(self, total: int) -> int:
        """Of `total` bytes for all: what this process may have, whether it counts yet or not."""
        if self.fixed_bytes is not None:
            return self.fixed_bytes
        with suppress(OSError):  # The folder is away: as it was.
            self._known = list(self._others())
        others = self._known
        left = total - sum(fixed for fixed in others if fixed is not None)
        return max(left, 0) // (1 + others.count(None))

    def _others(self) -> Iterator[int | None]:
        """The fixed shares of the others."""
        for file in self.folder.iterdir():
            if file.name.startswith(_DRAFT) or file.name == self._name:
                continue
            with suppress(OSError), file.open("rb") as opened:
                try:
                    flock(opened, LOCK_SH | LOCK_NB)
                except BlockingIOError:
                    yield int(text) if (text := opened.read(32)) else None
                else:
                    file.unlink()  # Its process has ended.
