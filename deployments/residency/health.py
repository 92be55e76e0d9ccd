"""Why a replica's process has to be replaced: what it cannot recover from by itself."""

import asyncio
from collections.abc import Iterable
from typing import Any

from deployments.residency.engine import Resident, WatchedEngine

STUCK_S = 60.0
"""A step that takes longer, and longer than any caller may wait, is taken for one that does not end. Not measured."""


def problem_of(
    residents: Iterable[Resident[Any]], longest_deadline_s: float, lasting: Iterable["asyncio.Task[None] | None"]
) -> str | None:
    """`lasting`: tasks that end with the process alone, once they have begun."""
    if any(task is not None and task.done() for task in lasting):
        return "a task that keeps the memory's account has ended"
    for resident in residents:
        if isinstance(engine := resident.engine, WatchedEngine) and engine.busy_s > max(longest_deadline_s, STUCK_S):
            return f"{resident.model.name} has come to a standstill"
    return None
