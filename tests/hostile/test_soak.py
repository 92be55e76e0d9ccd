"""Requests of mixed kinds against the whole runtime: none is answered otherwise than it should be, no process grows.

`python -m benchmarks soak` is the same with 100,000 of them and the bundled models.
"""

import asyncio

import psutil
import pytest

from benchmarks.http.mixed import kinds
from benchmarks.http.soak import Holdings, holdings, soak
from tests.support.running import Running

WARM_UP, REQUESTS = 1000, 2000


def look() -> Holdings:
    return holdings(process for process in psutil.Process().children(recursive=True) if is_ours(process))


def is_ours(process: psutil.Process) -> bool:
    """Whether it serves requests: Ray's own processes have threads and descriptors as they need them."""
    return "ServeReplica" in process.name() or "haproxy" in process.name()


@pytest.mark.alone
def test_mixed_requests_are_answered_and_nothing_leaks(runtime: Running) -> None:
    of_kinds = kinds("image", "text", runtime.picture.read_bytes())
    soaked = asyncio.run(soak(runtime.url, of_kinds, REQUESTS, look, WARM_UP))
    print(soaked.markdown())
    assert len(soaked.halfway) >= 4
    assert not soaked.unlike
    assert not soaked.leaks
