"""500 slow heads, 50 header floods and 50 oversized bodies at once, while others ask as usual.

The times of the others are printed, not held to anything: attackers, others and server share the machine.
"""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.open_loop import Caller, percentile
from serve_app.haproxy import binary
from tests.hostile.front import Front, running
from tests.hostile.raw import BODY, CLOSE, HOST, head

SLOW_HEADS, FLOODS, OVERSIZED = 500, 50, 50
RATE, SECONDS = 100, 3
pytestmark = pytest.mark.skipif(binary() is None, reason="there is no HAProxy")


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with tempfile.TemporaryDirectory(prefix="front-") as folder, running(Path(folder)) as front:
        yield front


async def slow_head(port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /infer HTTP/1.1\r\nHost: runtime\r\n")
    try:
        while True:
            await asyncio.sleep(0.5)
            writer.write(b"x: 1\r\n")
            await writer.drain()
    finally:
        writer.close()


async def again_and_again(port: int, said: bytes) -> None:
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(said)
            await writer.drain()
            await reader.read()
        except OSError:  # refused before it was said
            pass
        finally:
            writer.close()
        await asyncio.sleep(0.2)


async def test_a_siege_costs_others_no_request(front: Front) -> None:
    caller = Caller(f"{front.url}/infer", BODY)
    await caller.at(RATE, 1)
    before = await caller.at(RATE, SECONDS)
    flood = head(HOST, CLOSE, *(b"x-%d: %s" % (number, b"1" * 700) for number in range(60)))
    oversized = head(HOST, CLOSE, b"Content-Length: 8000000") + b"x" * 2_000_000
    hostile = [asyncio.create_task(slow_head(front.port)) for _ in range(SLOW_HEADS)]
    hostile += [asyncio.create_task(again_and_again(front.port, flood)) for _ in range(FLOODS)]
    hostile += [asyncio.create_task(again_and_again(front.port, oversized)) for _ in range(OVERSIZED)]
    during = await caller.at(RATE, SECONDS)
    assert not any(task.done() for task in hostile), "an attacker has given up"
    for task in hostile:
        task.cancel()
    await asyncio.gather(*hostile, return_exceptions=True)
    caller.close()
    print(f"p99 before {percentile(before, 0.99):.1f} ms, during {percentile(during, 0.99):.1f} ms")
    assert [answer.status for answer in during] == [200] * len(during)
