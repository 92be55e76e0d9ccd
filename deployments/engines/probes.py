"""The results of a model's probes, cached by the folder's content, the machine, the libraries and the engines' code."""

import hashlib
import json
import platform
from functools import cache
from pathlib import Path
from typing import Protocol

import torch
import transformers

ENGINES = Path(__file__).parent


class Facts(Protocol):
    """Facts about one folder's content, by name. One that is lost is found again."""

    def recall(self, name: str) -> str | None: ...

    def remember(self, name: str, fact: str) -> None: ...


class ProbeCache:
    """Results of probes that hold for this machine, these libraries and this code; without `facts` none is kept."""

    def __init__(self, facts: Facts | None, *circumstances: object) -> None:
        """`circumstances`: what else the results depend on, such as device and dtype."""
        self._facts = facts
        self._prefix = f"{_here()} {' '.join(map(str, circumstances))}: "

    def recall(self, probe: str) -> str | None:
        return None if self._facts is None else self._facts.recall(self._prefix + probe)

    def remember(self, probe: str, result: str, known: str | None = None) -> str:
        """Returns the result. Writes nothing where it is `known`."""
        if self._facts is not None and result != known:
            self._facts.remember(self._prefix + probe, result)
        return result


@cache
def _here() -> str:
    """A digest of the machine, the libraries and the code of all engines."""
    machine = [platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.version.cuda]
    cause = json.dumps([torch.__version__, transformers.__version__, *machine, code_digest(ENGINES)])
    return hashlib.sha256(cause.encode()).hexdigest()[:16]


def code_digest(folder: Path) -> str:
    """Of every Python file in the folder and below, and of its place there."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()
