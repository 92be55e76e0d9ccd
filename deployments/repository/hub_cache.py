"""The cache of the Hugging Face Hub, as its own tools write it: which folder of it is which model. Reads one line."""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

REF_BYTES = 256


class HubRepository(NamedTuple):
    model_id: str
    """`org/name`; empty for a data set or a space."""
    snapshot: Path
    """The files of its main branch, else of what was fetched last; the whole folder where there are none."""


def hub_repository(folder: Path) -> HubRepository | None:
    """None where the folder is no repository of such a cache."""
    kind, *names = folder.name.split("--")
    if kind not in ("models", "datasets", "spaces") or not names or not (folder / "snapshots").is_dir():
        return None
    return HubRepository("/".join(names) if kind == "models" else "", _snapshot(folder) or folder)


def _snapshot(folder: Path) -> Path | None:
    with suppress(OSError), (folder / "refs" / "main").open("rb") as ref:
        commit = ref.read(REF_BYTES).decode(errors="replace").strip()
        if commit.isalnum() and (folder / "snapshots" / commit).is_dir():
            return folder / "snapshots" / commit
    fetched = [place for place in (folder / "snapshots").iterdir() if place.is_dir()]
    return max(fetched, key=lambda place: place.stat().st_mtime, default=None)
