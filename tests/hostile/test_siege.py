"""500 slow heads, 50 header floods and 50 oversized bodies at once, while others ask as usual.

The times of the others are printed, not held to anything: besiegers, others and server share the machine.
"""

import asyncio
import subprocess
import sys

import pytest

from benchmarks.http.open_loop import Caller, percentile
from serve_app.http.haproxy import haproxy_binary
from tests.hostile.front import Front
from tests.hostile.raw import BODY

RATE, SECONDS = 100, 2
pytestmark = pytest.mark.skipif(haproxy_binary() is None, reason="there is no HAProxy")


@pytest.mark.slow
async def test_a_siege_costs_others_no_request(front: Front) -> None:
    caller = Caller(f"{front.url}/infer", BODY)
    await caller.at(RATE, 1)
    before = await caller.at(RATE, SECONDS)
    command = [sys.executable, "-m", "tests.hostile.siege", str(front.port)]
    siege = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert siege.stdout is not None
    assert await siege.stdout.readline() == b"begun\n"
    during = await caller.at(RATE, SECONDS)
    output, _ = await siege.communicate(b"")
    caller.close()
    for when, answers in (("before", before), ("during", during)):
        p50, p99 = (percentile(answers, share) for share in (0.5, 0.99))
        print(f"{when}: {len(answers)} requests, p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    print(output.decode())
    assert siege.returncode == 0, "a besieger has given up"
    assert [answer.status for answer in during] == [200] * len(during)
