"""What tests share."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parent.parent.parent


def sweep(values: Iterable[Any], *sample: object) -> list[Any]:
    """To parametrize with: values that are tested in the same way. `make test-fast` takes those of the sample."""
    import pytest  # not in the replicas that have families of the tests

    return [value if value in sample else pytest.param(value, marks=pytest.mark.sweep) for value in values]


def pretrained(kind: Any, folder: Path) -> Any:
    """What transformers' class `kind` reads from a folder, kept while its files are the same. Not to be changed."""
    facts = ((file, file.stat()) for file in sorted(folder.iterdir()))
    return _read(kind, folder, tuple((file.name, fact.st_mtime_ns, fact.st_size) for file, fact in facts))


@lru_cache(16)
def _read(kind: Any, folder: Path, files: object) -> Any:
    return kind.from_pretrained(folder)
