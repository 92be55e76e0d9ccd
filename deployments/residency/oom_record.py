"""The sizes of models with which the kernel has killed a replica of this node for want of memory.

A process that is killed reports nothing. So each replica notes beforehand, in a file that it locks for as long as it
lives, how much memory the one model takes that it loads or computes with. Who loads a model reads the notes of replicas
that are gone: where the kernel has killed a process since such a note, what it says becomes the model's size.
"""

import fcntl
import json
import logging
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from deployments.residency.footprint import Footprint
from deployments.residency.ledger import MIB, State
from deployments.system.artifact_cache import ArtifactCache, digest_key, private_folder
from deployments.system.oom_kills import oom_kills

logger = logging.getLogger("model_runtime.residency")

LOOK_EVERY_S = 0.05
"""During a load. More often sees more of what is taken in the end, at the cost of a read of /proc. Not measured."""
MOST_OF_IT = 0.75
"""A model that held a smaller part of its known size is not at fault: others took the memory. Not measured."""
MORE = 1.25
"""What was seen is less than what would have been needed: the next try is for so much more. Larger values refuse models
that would fit, smaller ones take more deaths to find the size. Not measured."""
KEPT_S = 86400.0
"""Then the size is forgotten, since the machine may have more memory by now."""
SIZES_BYTES = MIB
_DRAFT = ".draft-"
_WIDTH = 1024
"""A note is written in one piece of so many bytes."""


@dataclass(frozen=True, slots=True)
class _Note:
    model: str
    """Its key."""
    known: int
    seen: int
    kills: int
    """How many processes the kernel had killed by then."""


class OomRecord:
    """Of one replica; its `footprint` has the models in memory. `look` is called every second."""

    def __init__(
        self,
        cache: Path,
        footprint: Footprint,
        kills: Callable[[], int] = oom_kills,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`cache`: the node's folder. Raises PermissionError where others may write to it."""
        # A cache may lie in a home that several nodes share.
        self.folder = private_folder(cache / "notes" / (platform.node() or "node"))
        self.sizes = ArtifactCache(cache / "sizes", SIZES_BYTES)
        self.footprint = footprint
        self._kills, self._clock = kills, clock
        self._lock = threading.Lock()
        self._file: int | None = None
        self._place: Path | None = None
        self._note: _Note | None = None
        self._on_gpu = False

    def use_gpu(self) -> None:
        """The models are on a GPU: their sizes say nothing of the machine's memory."""
        self._on_gpu = True

    @contextmanager
    def looking(self) -> Iterator[None]:
        """For the time of a load: looks again and again."""
        ended = threading.Event()

        def look_on() -> None:
            while not ended.wait(LOOK_EVERY_S):
                self.look()

        self.look()
        thread = threading.Thread(target=look_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def look(self) -> None:
        """Notes what the model takes that is loaded or in use, if it is the only one."""
        if self._on_gpu:
            return
        with self._lock:
            entries = list(self.footprint.ledger.entries.items())
            busy = [(key, entry) for key, entry in entries if entry.state is State.LOADING or entry.leases]
            if len(busy) != 1:
                self._write(None)
                return
            ((key, entry),) = busy
            seen = self.footprint.overhead_bytes + entry.bytes - self.footprint.stated_bytes
            if self._note and self._note.model == key:
                seen = max(seen, self._note.seen)
            self._write(_Note(key, entry.bytes, seen, self._kills()))

    def size_of(self, key: str) -> int | None:
        """In bytes; None where no replica was killed with this model."""
        self._read_notes_left()
        with suppress(TypeError, ValueError, KeyError):
            kept = json.loads(self.sizes.read(digest_key(key)) or "null")
            if self._clock() < kept["until"]:
                return int(kept["bytes"])
        return None

    def _write(self, note: _Note | None) -> None:
        if note == self._note:
            return
        with suppress(OSError):  # A disk that is full: then nothing is known.
            if self._file is None:
                self._file = self._made()
            content = json.dumps(asdict(note) if note else None).encode().ljust(_WIDTH)
            os.pwrite(self._file, content if len(content) == _WIDTH else b"null".ljust(_WIDTH), 0)
            self._note = note

    def _made(self) -> int:
        # Locked before it has a name that others look at: they remove files that nobody locks.
        file, draft = tempfile.mkstemp(prefix=_DRAFT, dir=self.folder)
        fcntl.flock(file, fcntl.LOCK_EX)
        self._place = Path(draft).rename(self.folder / Path(draft).name.removeprefix(_DRAFT))
        return file

    def _read_notes_left(self) -> None:
        for place in self.folder.glob("[!.]*"):
            if place != self._place:
                with suppress(OSError, TypeError, ValueError), place.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # Raises while its replica lives.
                    text = file.read()
                    place.unlink()
                    self._learn(_Note(**json.loads(text)))

    def _learn(self, note: _Note) -> None:
        if self._kills() <= note.kills or note.seen < MOST_OF_IT * note.known:
            return
        size = int(max(note.seen, note.known) * MORE)
        kept = json.dumps({"bytes": size, "until": self._clock() + KEPT_S})
        self.sizes.write(digest_key(note.model), kept.encode())
        name, sizes = note.model.rpartition("#")[0], (note.known / MIB, note.seen / MIB, size / MIB)
        killed = "the kernel killed a replica for want of memory: %s, known as %.0f MiB, had taken %.0f"
        logger.warning(f"{killed}; it counts as %.0f MiB now", name, *sizes)
