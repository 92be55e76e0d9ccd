"""What a check has found. Knows no checks."""

import enum
from dataclasses import dataclass


class Level(enum.StrEnum):
    OK = "ok"
    WARNING = "warning"
    """The runtime runs, with less than it could have."""
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `what`: the thing that was looked at; `said`: how it is; `cure`: what to do about it."""

    what: str
    level: Level
    said: str
    cure: str = ""


def ok(what: str, said: str) -> Finding:
    return Finding(what, Level.OK, said)


def warning(what: str, said: str, cure: str) -> Finding:
    return Finding(what, Level.WARNING, said, cure)


def fault(what: str, said: str, cure: str) -> Finding:
    return Finding(what, Level.FAULT, said, cure)
