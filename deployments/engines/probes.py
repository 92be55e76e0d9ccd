"""What trials of a model came to, so that each is made once for a content, a machine and the code that makes it."""

import hashlib
import json
import platform
from functools import cache
from pathlib import Path
from typing import Protocol

import torch
import transformers


class Facts(Protocol):
    """Answers to questions about one folder's content. What is lost is asked again."""

    def recall(self, question: str) -> str | None: ...

    def remember(self, question: str, answer: str) -> None: ...


class ProbeCache:
    """The facts that hold for this machine, these libraries and this code. Without `facts` it remembers nothing."""

    def __init__(self, facts: Facts | None, *circumstances: object) -> None:
        self._facts = facts
        self._prefix = f"{_here()} {' '.join(map(str, circumstances))}: "

    def recall(self, question: str) -> str | None:
        return None if self._facts is None else self._facts.recall(self._prefix + question)

    def remember(self, question: str, answer: str, known: str | None = None) -> str:
        """Returns the answer. Does nothing where it is `known`."""
        if self._facts is not None and answer != known:
            self._facts.remember(self._prefix + question, answer)
        return answer


@cache
def _here() -> str:
    """A digest of the machine, the libraries and the engines' own code."""
    code = [file.read_text("utf-8") for file in sorted(Path(__file__).parent.glob("*.py"))]
    machine = [platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.version.cuda]
    cause = json.dumps([torch.__version__, transformers.__version__, *machine, *code])
    return hashlib.sha256(cause.encode()).hexdigest()[:16]
