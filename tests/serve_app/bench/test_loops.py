"""Load against a server with fixed delays, in counted time: the figures are the server's, within 2 %."""

import asyncio
import itertools
import math

import pytest

from serve_app.bench.loops import Answer, Measure, Span, closed_loop, generate, median, open_loop, summarise
from tests.serve_app.bench.virtual_time import run


async def ask(delay_s: float) -> Answer:
    begun = asyncio.get_running_loop().time()
    await asyncio.sleep(delay_s)
    return Answer(1.0, begun + delay_s / 2, 3)


@pytest.mark.parametrize(("connections", "delay_s"), [(1, 0.01), (8, 0.1), (64, 0.25)])
def test_a_closed_loop_measures_the_servers_rate_and_latency(connections: int, delay_s: float) -> None:
    async def measured() -> Measure:
        spans = await closed_loop(ask, itertools.repeat(delay_s), connections, 20.0)
        return summarise(spans, 5.0, 20.0)

    measure = run(measured())
    assert measure.rate == pytest.approx(connections / delay_s, rel=0.02)
    assert (measure.p50_ms, measure.p99_ms) == pytest.approx((delay_s * 1e3, delay_s * 1e3), rel=0.02)


def test_a_closed_loop_ends_with_its_work_and_says_whose_it_was() -> None:
    spans = run(closed_loop(ask, iter([0.1, 0.2]), 4, 100.0, name_of=str))
    assert sorted((span.name, span.end, span.tokens) for span in spans) == [("0.1", 0.1, 3), ("0.2", 0.2, 3)]


def test_an_open_loop_sends_what_is_due_whether_others_are_answered_or_not() -> None:
    async def measured() -> tuple[list[Span], int]:
        most = under_way = 0

        async def slow(delay_s: float) -> Answer:
            nonlocal most, under_way
            under_way += 1
            most = max(most, under_way)
            answer = await ask(delay_s)
            under_way -= 1
            return answer

        return await open_loop(slow, ((n / 100, 1.0) for n in range(1000)), 0.0), most

    spans, most = run(measured())
    measure = summarise(spans, 2.0, 9.0)
    assert measure.rate == pytest.approx(100, rel=0.02)
    assert measure.p99_ms == pytest.approx(1000, rel=0.02)
    assert most == pytest.approx(100, rel=0.02)


def test_an_open_loop_that_is_late_counts_from_when_a_request_was_due() -> None:
    async def late() -> list[Span]:
        await asyncio.sleep(5)
        return await open_loop(ask, [(1.0, 0.5), (7.0, 0.5)], 0.0)

    assert [span.end - span.start for span in run(late())] == pytest.approx([4.5, 0.5])


def test_texts_are_counted_in_tokens_after_the_lead_in_and_short_ones_are_errors() -> None:
    async def text(prompt: str, length: int) -> int:
        await asyncio.sleep(length / 100)
        return length if prompt == "whole" else length - 1

    measure = run(generate(text, ["whole", "short"], 2, [10, 30], 1.0, 10.0))
    assert measure.rate == pytest.approx(200, rel=0.04)  # a short one lacks a token
    assert measure.errors > 0


def test_a_request_over_an_edge_counts_by_its_share_inside() -> None:
    assert summarise([Span(0, 2, 1), Span(9, 13, 1)], 1, 11).rate == pytest.approx((0.5 + 0.5) / 10)
    assert math.isnan(summarise([], 0, 1).p50_ms)


def test_the_median_of_measures_keeps_every_error() -> None:
    assert median([Measure(1, 1, 1, 1), Measure(3, 3, 3, 1), Measure(2, 2, 2)]) == Measure(2, 2, 2, 2)
