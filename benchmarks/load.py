"""Closed-loop load: wrk for short requests, an asyncio client for texts. Gives rates and latencies."""

import asyncio
import itertools
import json
import math
import shutil
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

POST_LUA = Path(__file__).with_name("post.lua")
NO_WRK = "wrk is not installed; it makes the load. On Debian and Ubuntu: apt-get install -y wrk"


@dataclass(frozen=True, slots=True)
class Measure:
    """`rate` a second: requests, or tokens where texts are generated. `errors`: requests that were not answered."""

    rate: float
    p50_ms: float
    p99_ms: float
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """One answered request, on the clock of time.perf_counter. `amount`: what it counts for."""

    start: float
    end: float
    amount: float


def median(measures: Sequence[Measure]) -> Measure:
    """Each figure's median; all the errors."""
    return Measure(
        statistics.median(measure.rate for measure in measures),
        statistics.median(measure.p50_ms for measure in measures),
        statistics.median(measure.p99_ms for measure in measures),
        sum(measure.errors for measure in measures),
    )


def require_wrk() -> None:
    """Raises SystemExit that says what to do."""
    if shutil.which("wrk") is None:
        raise SystemExit(NO_WRK)


def wrk(url: str, body: Path, connections: int, seconds: int) -> Measure:
    """Posts the body as often as the connections allow."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "-s", str(POST_LUA), url]
    told = subprocess.run([*command, "--", str(body)], capture_output=True, text=True, check=True)
    counted = json.loads(told.stdout.splitlines()[-1])
    answered = counted["requests"] - counted["refused"]
    if answered <= 0:
        return Measure(0, math.nan, math.nan, counted["refused"] + counted["broken"])
    return Measure(
        answered / (counted["duration"] / 1e6),
        counted["p50"] / 1e3,
        counted["p99"] / 1e3,
        counted["refused"] + counted["broken"],
    )


def summarise(spans: Iterable[Span], begin: float, end: float) -> Measure:
    """What was done between begin and end. A request that reaches over an edge counts by its share inside."""
    inside = [span for span in spans if span.end > begin and span.start < end]
    if not inside:
        return Measure(0, math.nan, math.nan)
    amount = sum(
        span.amount * (min(span.end, end) - max(span.start, begin)) / (span.end - span.start) for span in inside
    )
    latencies = sorted((span.end - span.start) * 1e3 for span in inside)
    p99 = latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))]
    return Measure(amount / (end - begin), statistics.median(latencies), p99)


Ask = Callable[[str, int], Awaitable[int]]
"""Prompt and length to the number of tokens that came."""


async def generate(
    ask: Ask, prompts: Sequence[str], connections: int, lengths: Sequence[int], lead_in_s: float, seconds: float
) -> Measure:
    """`connections` clients ask one after the other; counted after the lead-in. Tokens a second.

    Requests under way at the end are waited for, so that no server is left with the last one's work.
    """
    turns = itertools.cycle(zip(itertools.cycle(prompts), itertools.cycle(lengths), strict=False))
    spans: list[Span] = []
    errors = 0
    begin = time.perf_counter() + lead_in_s
    end = begin + seconds

    async def client() -> None:
        nonlocal errors
        while time.perf_counter() < end:
            prompt, length = next(turns)
            start = time.perf_counter()
            tokens = await ask(prompt, length)
            errors += tokens != length
            spans.append(Span(start, time.perf_counter(), tokens))

    await asyncio.gather(*(client() for _ in range(connections)))
    counted = summarise(spans, begin, end)
    return Measure(counted.rate, counted.p50_ms, counted.p99_ms, errors)
