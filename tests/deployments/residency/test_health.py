"""What a replica cannot recover from by itself makes it unhealthy; what is slow or idle does not."""

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

from deployments.repository.model import Model
from deployments.residency.engine import Resident
from deployments.residency.health import STUCK_S, problem_of
from deployments.residency.ledger import Entry


class Busy:
    resident_bytes = 0
    runtime_info = ()

    def __init__(self, busy_s: float) -> None:
        self.busy_s = busy_s

    def close(self) -> None: ...


def resident(engine: Any, name: str = "m") -> Resident[Any]:
    return Resident(Model(name, None, Path(name), "d", "text_generation"), engine, Entry(0), 0.0)


@pytest.mark.parametrize(
    ("busy_s", "longest_deadline_s", "stands_still"),
    [(0.0, 1.0, False), (STUCK_S - 1, 1.0, False), (STUCK_S + 1, 1.0, True), (299, 300, False), (301, 300, True)],
)
def test_a_step_is_stuck_once_no_caller_may_wait_for_it_any_more(
    busy_s: float, longest_deadline_s: float, stands_still: bool
) -> None:
    problem = problem_of([resident(Busy(0.0), "idle"), resident(Busy(busy_s))], longest_deadline_s, [])
    assert problem == ("m has come to a standstill" if stands_still else None)


def test_an_engine_whose_thread_has_ended_is_a_problem_whatever_the_deadline() -> None:
    assert problem_of([resident(Busy(math.inf))], 1e9, [])


async def test_a_task_that_is_to_last_and_has_ended_is_a_problem() -> None:
    lasting, ended = asyncio.create_task(asyncio.sleep(1000)), asyncio.create_task(asyncio.sleep(0))
    await ended
    assert problem_of([], 1, [None, lasting]) is None
    assert problem_of([], 1, [None, lasting, ended])
    lasting.cancel()
