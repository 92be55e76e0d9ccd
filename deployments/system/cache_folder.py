"""Where this node keeps what it may need again. One function decides, for every process."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from deployments.system.artifact_cache import private_folder


def cache_folder(configured: Path | None) -> Path:
    """The configured folder, else one in the user's home, else one beside temporary files. Makes it if need be.

    Raises OSError, with one line that says what to set, where this user can write to none of them.
    """
    refused = []
    for folder in _candidates() if configured is None else [configured]:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            return folder
        except OSError as failure:
            refused.append(f"{folder} ({failure.strerror or failure})")
    where = " nor to ".join(refused) or "any folder"
    raise OSError(f"cache: user {os.getuid()} cannot write to {where}; set `cache` to a folder that it can write to")


def home() -> Path | None:
    """The user's home; None where there is none, or where it is the root of the file system, as in many containers."""
    with suppress(RuntimeError):  # HOME is not set, and the system does not know the user.
        folder = Path.home()
        return folder if folder.is_absolute() and folder != Path("/") else None
    return None


def _candidates() -> Iterator[Path]:
    if (own := home()) is not None:
        yield own / ".cache" / "model-runtime"
    with suppress(OSError):  # There is no folder for temporary files, or another user has made ours.
        shared = Path(tempfile.gettempdir()) / f"model-runtime-{os.getuid()}"
        yield private_folder(shared)
