"""A cache on disk that several processes share: entries by key, each whole or absent, bounded in bytes.

On a disk that is full or read-only `write` and `draft` raise OSError, and what is there is found. The cache knows
nothing of what the entries hold. An entry is a file (`read`, `write`) or a folder of files (`find`, `draft`).
What lies in it is trusted, so the folder belongs to this user alone.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DIGESTS = "digests.json"
_LOCK = ".lock"
_DRAFT = ".draft-"


def private_folder(folder: Path) -> Path:
    """Makes a folder that this user alone may write to. Raises PermissionError where others may."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = folder.stat()
    if facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise PermissionError(f"others may write into {folder}")
    return folder


def digest_key(*parts: object) -> str:
    """The key of what depends on all these parts, as JSON has them."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def sha256_by_name(files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file, by its name."""
    digests = {}
    for path in files:
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


class ArtifactCache:
    """For any thread. `max_bytes` bounds all entries together; the least recently used are removed first."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        """Raises PermissionError where others may write to `root`."""
        self.root = private_folder(root)
        self.max_bytes = max_bytes
        with suppress(OSError), self._locked():
            self._remove_drafts()

    def read(self, key: str) -> bytes | None:
        """The content of a file entry; None where there is none."""
        _use(self.root / key)
        with suppress(OSError):
            return (self.root / key).read_bytes()
        return None

    def write(self, key: str, content: bytes) -> None:
        """Makes or replaces a file entry."""
        with self._locked():
            draft = self.root / ".file"  # a single one, since the lock is held until it is in place
            draft.write_bytes(content)
            draft.replace(self.root / key)
            self._evict(key)

    def __contains__(self, key: str) -> bool:
        return (self.root / key).exists()

    def find(self, key: str) -> Path | None:
        """A folder entry, with every file as it was written; None where there is none. A damaged one is removed."""
        place = self.root / key
        if place.is_dir():
            _use(place)
            with suppress(OSError, ValueError):
                if json.loads((place / DIGESTS).read_bytes()) == _digests(place):
                    return place
            with suppress(OSError):
                self.remove(key)
        return None

    @contextmanager
    def draft(self, key: str) -> Iterator[Path]:
        """A folder; what the block leaves there becomes the entry, unless the block raises or another process made the
        entry meanwhile."""
        with self._locked():
            folder = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self.root))
            # Locked as long as the process that writes the draft is alive. A file: NFS locks no folders.
            digests = (folder / DIGESTS).open("w")
            fcntl.flock(digests, fcntl.LOCK_EX)
        try:
            with digests:
                yield folder
                json.dump(_digests(folder), digests)
                digests.flush()
                with self._locked():
                    if key not in self:
                        folder.rename(self.root / key)
                        self._evict(key)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def remove(self, key: str) -> None:
        with self._locked():
            self._remove(self.root / key)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One thread of one process at a time changes the cache. Not to be nested."""
        with (self.root / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _evict(self, kept: str) -> None:
        total = 0
        for place in sorted(self.root.glob("[!.]*"), key=lambda place: place.stat().st_mtime_ns, reverse=True):
            total += sum(file.stat().st_size for file in (place.iterdir() if place.is_dir() else [place]))
            if total > self.max_bytes and place.name != kept:
                self._remove(place)

    def _remove(self, place: Path) -> None:
        """Other processes see the whole entry under its name, or none."""
        if place.is_dir():
            place = place.rename(tempfile.mkdtemp(prefix=_DRAFT, dir=self.root))
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)

    def _remove_drafts(self) -> None:
        """Those of processes that have ended."""
        for draft in self.root.glob(f"{_DRAFT}*"):
            with suppress(OSError):
                with (draft / DIGESTS).open("a") as digests:
                    fcntl.flock(digests, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(draft)


def _use(place: Path) -> None:
    """The entry is used now."""
    with suppress(OSError):
        os.utime(place)


def _digests(folder: Path) -> dict[str, str]:
    return sha256_by_name(file for file in folder.iterdir() if file.name != DIGESTS)
