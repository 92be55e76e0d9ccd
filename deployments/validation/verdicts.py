"""What was found out about a folder's content, on disk: verdicts and trials. Knows no engines."""

import json
import os
import threading
from pathlib import Path

_one_at_a_time = threading.Lock()


class FolderFacts:
    """One file. Where it is lost or cannot be read, nothing was found out yet. For any thread."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def recall(self, question: str) -> str | None:
        answer = self._all().get(question)
        return answer if isinstance(answer, str) else None

    def remember(self, question: str, answer: str) -> None:
        # Two processes may overwrite each other: one of them finds out again.
        with _one_at_a_time:
            write_whole(self.place, json.dumps(self._all() | {question: answer}).encode())

    def _all(self) -> dict[str, object]:
        try:
            found = json.loads(self.place.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def private_folder(folder: Path) -> Path:
    """A folder that belongs to this user alone: what lies in it is believed. Raises PermissionError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = folder.stat()
    if facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise PermissionError(f"others may write into {folder}")
    return folder


def write_whole(place: Path, content: bytes) -> None:
    """The file is there whole or not at all."""
    draft = place.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    draft.write_bytes(content)
    draft.replace(place)
