"""Closed and open loops of load. Knows no HTTP: a coroutine does the work. Time is the event loop's."""

import asyncio
import itertools
import math
import statistics
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

Work = TypeVar("Work")


@dataclass(frozen=True, slots=True)
class Measure:
    """`rate` a second: requests, or tokens where texts are generated. `errors`: requests that were not answered."""

    rate: float
    p50_ms: float
    p99_ms: float
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """`amount`: what it counts for. `first_at`: when its first part came, on the loop's clock."""

    amount: float = 1.0
    first_at: float | None = None
    tokens: int = 0
    error: str = ""
    """The code of its failure."""


@dataclass(frozen=True, slots=True)
class Span:
    """One request, on the loop's clock. `start`: when it was sent, or was due to be sent."""

    start: float
    end: float
    amount: float
    first_at: float | None = None
    tokens: int = 0
    error: str = ""
    name: str = ""
    """The model that was asked."""


def summarise(spans: Iterable[Span], begin: float, end: float) -> Measure:
    """What was done between begin and end. A request that reaches over an edge counts by its share inside."""
    inside = [span for span in spans if span.end > begin and span.start < end]
    if not inside:
        return Measure(0, math.nan, math.nan)

    def share(span: Span) -> float:
        return (min(span.end, end) - max(span.start, begin)) / max(span.end - span.start, 1e-9)

    amount = sum(span.amount * share(span) for span in inside)
    latencies = sorted((span.end - span.start) * 1e3 for span in inside)
    p99 = latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))]
    return Measure(amount / (end - begin), statistics.median(latencies), p99)


def median(measures: Sequence[Measure]) -> Measure:
    """Each figure's median; all the errors."""
    return Measure(
        statistics.median(measure.rate for measure in measures),
        statistics.median(measure.p50_ms for measure in measures),
        statistics.median(measure.p99_ms for measure in measures),
        sum(measure.errors for measure in measures),
    )


async def closed_loop(
    ask: Callable[[Work], Awaitable[Answer]],
    works: Iterator[Work],
    connections: int,
    end: float,
    name_of: Callable[[Work], str] = lambda _: "",
) -> list[Span]:
    """`connections` clients ask one after the other until `end`. Requests under way then are waited for, so that no
    server is left with the last one's work."""
    clock, spans = asyncio.get_running_loop().time, list[Span]()

    async def client() -> None:
        while clock() < end:
            work = next(works, None)
            if work is None:
                return
            start = clock()
            spans.append(_span(start, clock, await ask(work), name_of(work)))

    await asyncio.gather(*(client() for _ in range(connections)))
    return spans


async def open_loop(
    ask: Callable[[Work], Awaitable[Answer]],
    arrivals: Iterable[tuple[float, Work]],
    begin: float,
    name_of: Callable[[Work], str] = lambda _: "",
) -> list[Span]:
    """Each request is sent when it is due, so many seconds after `begin`, whether earlier ones are answered or not. Its
    time counts from when it was due: a generator that is late does not hide what its callers would have waited."""
    clock, spans = asyncio.get_running_loop().time, list[Span]()

    async def one(due: float, work: Work) -> None:
        spans.append(_span(due, clock, await ask(work), name_of(work)))

    async with asyncio.TaskGroup() as group:
        for after, work in arrivals:
            due = begin + after
            if (left := due - clock()) > 0:
                await asyncio.sleep(left)
            group.create_task(one(due, work))
    return spans


def _span(start: float, clock: Callable[[], float], answer: Answer, name: str) -> Span:
    return Span(start, clock(), answer.amount, answer.first_at, answer.tokens, answer.error, name)


Ask = Callable[[str, int], Awaitable[int]]
"""Prompt and length to the number of tokens that came."""


async def generate(
    ask: Ask, prompts: Iterable[str], connections: int, lengths: Sequence[int], lead_in_s: float, seconds: float
) -> Measure:
    """A closed loop of texts; counted after the lead-in. Tokens a second. A text of another length is an error."""
    works = itertools.cycle(zip(itertools.cycle(prompts), itertools.cycle(lengths), strict=False))

    async def one(work: tuple[str, int]) -> Answer:
        tokens = await ask(*work)
        return Answer(tokens, error="" if tokens == work[1] else "length")

    begin = asyncio.get_running_loop().time() + lead_in_s
    spans = await closed_loop(one, works, connections, begin + seconds)
    counted = summarise(spans, begin, begin + seconds)
    return Measure(counted.rate, counted.p50_ms, counted.p99_ms, sum(bool(span.error) for span in spans))
