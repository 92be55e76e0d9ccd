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
    """The findings that hold where and how the model runs now; without `findings` nothing is remembered."""

    def __init__(self, findings: Facts | None, *circumstances: object) -> None:
        self._findings = findings
        self._prefix = f"{_here()} {' '.join(map(str, circumstances))}: "

    def recall(self, question: str) -> str | None:
        return None if self._findings is None else self._findings.recall(self._prefix + question)

    def remember(self, question: str, answer: str, known: str | None = None) -> str:
        """Returns the answer. Does nothing where it is `known`."""
        if self._findings is not None and answer != known:
            self._findings.remember(self._prefix + question, answer)
        return answer


@cache
def _here() -> str:
    """A digest of the machine, the libraries and the engines' own code."""
    code = [file.read_text("utf-8") for file in sorted(Path(__file__).parent.glob("*.py"))]
    machine = [platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.version.cuda]
    cause = json.dumps([torch.__version__, transformers.__version__, *machine, *code])
    return hashlib.sha256(cause.encode()).hexdigest()[:16]
