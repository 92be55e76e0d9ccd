"""`make test-faults`: clients that leave in the middle of a stream; the replica stops computing for them at once."""

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.models import save_large_llama
from tests.faults.served import Served, serving
from tests.support.ports import free_port
from tests.support.until import wait_until

pytestmark = [
    pytest.mark.skipif("FAULTS" not in os.environ, reason="make test-faults: minutes"),
    pytest.mark.timeout(1200),
]

CLIENTS = int(os.environ.get("FAULTS_CLIENTS", "200"))
STOPS_WITHIN_S = 0.25
TOKENS = 450
READ = 20
"""Tokens that a client reads before it leaves."""
WHOLE = 5
"""Texts that are read to their end, to see how long a token takes."""
PUBLISHED_S = 2.2
"""Each replica's counters reach /metrics once a second; two have to have come."""
INDEX = re.compile(rb'"index":(\d+)}')
MODEL_ID = "large"
"""A token takes it longer than this process may have to wait for a processor, so that few are ahead of the client."""
BODY = {
    "TextGeneration": {
        "model_id": MODEL_ID,
        "prompt": "a",
        "max_tokens": TOKENS,
        "min_tokens": TOKENS,
        "stream": True,
    }
}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    save_large_llama(tmp_path / "models" / MODEL_ID)
    with serving(tmp_path, free_port(), tmp_path / "models", "{}") as served:
        yield served


def generated(served: Served) -> float:
    """Tokens that all replicas have computed so far."""
    text = httpx.get(f"{served.url}/metrics", timeout=10).text
    families = text_string_to_metric_families(text)
    return sum(s.value for family in families for s in family.samples if s.name == "text_generated_tokens_total")


def read(served: Served, tokens: int) -> int:
    """Leaves after so many tokens. Returns how many had come by then: more if this process waited for a processor."""
    url, body = httpx.URL(served.url), json.dumps(BODY).encode()
    head = (
        f"POST /infer HTTP/1.1\r\nHost: {url.host}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((url.host, url.port), timeout=60) as connection:
        connection.sendall(head.encode() + body)
        received = b""
        while last(received) < tokens:
            received += some(connection)
        connection.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                received += some(connection)
    return last(received)


def some(connection: socket.socket) -> bytes:
    received = connection.recv(1 << 16)
    assert received, "the stream ended before"
    return received


def last(received: bytes) -> int:
    """The index of the last token of an event stream; 0 before the first one."""
    found = INDEX.findall(received)
    return int(found[-1]) if found else 0


def test_computing_stops_when_its_client_leaves(served: Served) -> None:
    wait_until(served.answers, "it is ready", 120)
    begun = time.monotonic()
    for _ in range(WHOLE):
        read(served, TOKENS)
    step_s = (time.monotonic() - begun) / WHOLE / TOKENS
    time.sleep(PUBLISHED_S)
    stopped, before = [], generated(served)
    for _ in range(CLIENTS):
        came = read(served, READ)
        time.sleep(PUBLISHED_S)
        after = generated(served)
        stopped.append(after - before - came)
        before = after
    stopped.sort()
    p50, p99 = stopped[len(stopped) // 2], stopped[int(len(stopped) * 0.99)]
    print(
        f"\n{CLIENTS} clients left: {p50:.0f} tokens more were computed (p50), {p99:.0f} (p99), "
        f"{step_s * 1e3:.2f} ms each"
    )
    assert p99 < TOKENS / 2, "a whole text would not be told from a stopped one"
    assert p99 * step_s <= STOPS_WITHIN_S
