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
    """One line. `what`: the thing that was looked at; `state`: how it is; `cure`: what to do about it."""

    what: str
    level: Level
    state: str
    cure: str = ""


def ok(what: str, state: str) -> Finding:
    return Finding(what, Level.OK, state)


def warning(what: str, state: str, cure: str) -> Finding:
    return Finding(what, Level.WARNING, state, cure)


def fault(what: str, state: str, cure: str) -> Finding:
    return Finding(what, Level.FAULT, state, cure)
