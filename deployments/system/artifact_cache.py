"""A cache on disk that several processes share: entries by key, each whole or absent, bounded in bytes.

It knows nothing of what the entries hold. An entry is a file (`read`, `write`) or a folder of files (`find`, `draft`).
What lies in it is trusted, so the folder belongs to this user alone.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DIGESTS = "digests.json"
_DRAFT = "draft-"
_LOCK = ".lock"


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


class ArtifactCache:
    """For any thread. `max_bytes` bounds all entries together; the least recently used are removed first."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        """Raises PermissionError where others may write to `root`."""
        self.root = private_folder(root)
        self.max_bytes = max_bytes
        with self._locked():
            self._remove_drafts()

    def read(self, key: str) -> bytes | None:
        """The content of a file entry; None where there is none."""
        try:
            content = self._place(key).read_bytes()
            os.utime(self._place(key))
        except OSError:
            return None
        return content

    def write(self, key: str, content: bytes) -> None:
        """Makes or replaces a file entry."""
        with self._locked():
            draft = self.root / f"{_DRAFT}{key}"  # a single one, since the lock is held until it is in place
            draft.write_bytes(content)
            draft.replace(self._place(key))
            self._evict(key)

    def __contains__(self, key: str) -> bool:
        return self._place(key).exists()

    def find(self, key: str) -> Path | None:
        """A folder entry, with every file as it was written; None where there is none. A damaged one is removed."""
        place = self._place(key)
        if not place.is_dir():
            return None
        try:
            whole = json.loads((place / DIGESTS).read_bytes()) == _digests(place)
            os.utime(place)
        except (OSError, ValueError):
            whole = False
        if not whole:
            self.remove(key)
        return place if whole else None

    @contextmanager
    def draft(self, key: str) -> Iterator[Path]:
        """An empty folder; what the block leaves there becomes the entry, unless the block raises or another process
        made the entry meanwhile."""
        with self._locked():
            self._remove_drafts()
            # Locked as long as the process that writes the draft is alive. A file: NFS locks no folders.
            lock, name = tempfile.mkstemp(_LOCK, _DRAFT, self.root)
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder = Path(name).with_suffix("")
            folder.mkdir(0o700)
        try:
            yield folder
            digests = json.dumps(_digests(folder))
            with self._locked():
                if key not in self:
                    (folder / DIGESTS).write_text(digests)
                    folder.rename(self._place(key))
                    self._evict(key)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            Path(name).unlink(missing_ok=True)
            os.close(lock)

    def remove(self, key: str) -> None:
        with self._locked():
            self._remove(self._place(key))

    def _place(self, key: str) -> Path:
        return self.root / key

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One thread of one process at a time changes the cache. Not to be nested."""
        with (self.root / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _evict(self, kept: str) -> None:
        total = 0
        entries = [place for place in self.root.iterdir() if not place.name.startswith((_DRAFT, _LOCK))]
        for place in sorted(entries, key=lambda place: place.stat().st_mtime_ns, reverse=True):
            total += sum(file.stat().st_size for file in _files(place))
            if total > self.max_bytes and place.name != kept:
                self._remove(place)

    def _remove(self, place: Path) -> None:
        """Other processes see the whole entry under its name, or none."""
        grave = self.root / f"{_DRAFT}removed"
        _delete(grave)
        with contextlib.suppress(FileNotFoundError):
            place.rename(grave)
            _delete(grave)

    def _remove_drafts(self) -> None:
        """Those of processes that have ended."""
        alive = set()
        for lock in self.root.glob(f"{_DRAFT}*{_LOCK}"):
            with lock.open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    alive |= {lock.name, lock.stem}
        for draft in self.root.glob(f"{_DRAFT}*"):
            if draft.name not in alive:
                _delete(draft)


def _files(place: Path) -> list[Path]:
    return sorted(place.iterdir()) if place.is_dir() else [place]


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file, by its name."""
    digests = {}
    for path in _files(folder):
        if path.name != DIGESTS:
            with path.open("rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _delete(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)
