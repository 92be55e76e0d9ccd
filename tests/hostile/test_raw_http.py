"""HTTP itself, spoken by somebody hostile to HAProxy as it stands in front of the routes."""

import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from serve_app.haproxy import binary
from serve_app.http.head import MAX_HEADERS
from tests.hostile.front import Front, running
from tests.hostile.raw import BODY, CHUNKED, CLOSE, GOOD, HOST, LENGTH, Heard, chunks, corpus, head, speak

REQUESTS = int(os.environ.get("HOSTILE_REQUESTS", "4000"))
pytestmark = pytest.mark.skipif(binary() is None, reason="there is no HAProxy")


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with tempfile.TemporaryDirectory(prefix="front-") as folder, running(Path(folder)) as front:
        yield front


REFUSED = {
    "no host": (head(CLOSE, method=b"GET", path=b"/healthz"), 400, "invalid_request"),
    "a host that is none": (head(b"Host: a<b", CLOSE, LENGTH) + BODY, 400, "invalid_request"),
    "two hosts": (head(HOST, b"Host: other", CLOSE, LENGTH) + BODY, 400, None),
    "too many headers": (head(HOST, CLOSE, *[b"x: 1"] * MAX_HEADERS, LENGTH) + BODY, 431, "headers_too_large"),
    "too large a head": (head(HOST, CLOSE, b"x: " + b"1" * 20_000, LENGTH) + BODY, 431, "headers_too_large"),
    "a head beyond reading": (head(HOST, CLOSE, b"x: " + b"1" * 200_000, LENGTH) + BODY, 400, None),
    "a declared body too large": (head(HOST, CLOSE, b"Content-Length: 99999999"), 413, "payload_too_large"),
    "a chunked body too large": (head(HOST, CLOSE, CHUNKED) + chunks(*[b"x" * 65536] * 17), 413, "payload_too_large"),
    "an unknown route": (head(HOST, CLOSE, method=b"GET", path=b"/-/routes"), 404, "not_found"),
    "an upgrade": (
        head(HOST, b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
             b"Sec-WebSocket-Version: 13", method=b"GET"), 405, "method_not_allowed",
    ),
    "two lengths": (head(HOST, CLOSE, LENGTH, b"Content-Length: 5") + BODY, 400, None),
    "a negative length": (head(HOST, CLOSE, b"Content-Length: -5"), 400, None),
    "a chunk without a size": (head(HOST, CLOSE, CHUNKED) + b"zz\r\n\r\n", 400, None),
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\r\n\r\n", 400, None),
    "HTTP/2 without TLS": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "invalid_request"),
    "HTTP/0.9": (b"GET /healthz\r\n\r\n", 400, None),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_request_is_refused(front: Front, what: str) -> None:
    said, status, code = REFUSED[what]
    heard = speak(front.port, said, idle_s=1)
    assert heard.statuses == [status]
    assert heard.error_code() == code  # None: HAProxy could not read it and answers with its own page


@pytest.mark.parametrize("encoding", [b"chunked", b"Chunked", b"\tchunked", b"chunked\t"])
def test_nothing_is_smuggled_behind_two_lengths(front: Front, encoding: bytes) -> None:
    smuggled = head(HOST, method=b"GET", path=b"/models")
    for said in (
        head(HOST, LENGTH, b"Transfer-Encoding: " + encoding) + chunks(BODY) + smuggled,
        head(HOST, b"Content-Length: 4", b"Transfer-Encoding: " + encoding) + chunks(BODY) + smuggled,
        head(HOST, b"Transfer-Encoding: " + encoding, b"Content-Length: %d" % len(smuggled)) + b"0\r\n\r\n" + smuggled,
    ):
        assert len(speak(front.port, said, idle_s=0.5).statuses) <= 1 or b"TextGenerationResult" in said


def test_what_could_steer_serve_and_what_is_no_text_changes_nothing(front: Front) -> None:
    lines = [
        b"x-request-timeout-seconds: 0",
        b"x-request-disconnect-disabled: ?1",
        b"serve_multiplexed_model_id: \xff",
        b"x-request-id: \xff\xfe",
        b"accept-language: \xe9",
    ]
    for port in (front.port, front.direct_port):
        assert speak(port, head(HOST, CLOSE, LENGTH, *lines) + BODY).statuses == [200]


def test_an_expectation_is_met(front: Front) -> None:
    heard = speak(front.port, head(HOST, CLOSE, LENGTH, b"Expect: 100-continue") + BODY)
    assert heard.statuses == [200]


def slowly(port: int, said: bytes, at_once: int) -> Heard:
    """A byte every half second after the first `at_once`, until the server has had enough."""
    begin = time.monotonic()
    heard = b""
    with socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection:
        connection.sendall(said[:at_once])
        for at in range(at_once, len(said)):
            try:
                if not heard:
                    connection.sendall(said[at : at + 1])
                part = connection.recv(65536)
            except TimeoutError:
                if heard:
                    break
                continue
            except OSError:
                break
            heard += part
            if not part:
                break
    return Heard(heard, True, time.monotonic() - begin)


def test_slow_heads_and_slow_bodies_end_while_others_are_answered(front: Front) -> None:
    endless = b"POST /infer HTTP/1.1\r\nHost: runtime\r\nx: " + b"a" * 10_000
    body = head(HOST, CLOSE, b"Content-Length: 100000") + b'{"' + b"x" * 10_000
    with ThreadPoolExecutor(2) as slow:
        ends = {
            "head": slow.submit(slowly, front.port, endless, 40),
            "body": slow.submit(slowly, front.port, body, 200),
        }
        while not all(end.done() for end in ends.values()):
            assert speak(front.port, GOOD).took_s < 5
    assert 8 < ends["head"].result().took_s < 15
    assert ends["head"].result().statuses == [408]
    assert 8 < ends["body"].result().took_s < 15
    assert ends["body"].result().error_code() == "request_timeout"


def test_a_client_that_goes_ends_its_request_alone(front: Front) -> None:
    slow = BODY.replace(b'"m"', b'"slow"')
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", front.port)) as connection:
            connection.sendall(head(HOST, b"Content-Length: %d" % len(slow)) + slow)
    assert speak(front.port, GOOD).statuses == [200]


def resident(front: Front) -> dict[str, int]:
    return {name: psutil.Process(pid).memory_info().rss for name, pid in front.processes.items()}


def test_a_corpus_of_broken_requests_meets_no_5xx_no_hang_and_costs_no_memory(front: Front) -> None:
    """HOSTILE_REQUESTS=20000 is `make fuzz-http`."""

    def say(said: bytes) -> None:
        # What is cut short is closed by us: to the server, a client that went away.
        with socket.create_connection(("127.0.0.1", front.port), timeout=30) as connection:
            heard = b""
            try:
                connection.sendall(said)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65536):
                    heard += part
            except TimeoutError:
                raise
            except OSError:  # refused before it was said
                return
        statuses = Heard(heard, True, 0).statuses
        assert not [status for status in statuses if status >= 500], (said, heard)

    with ThreadPoolExecutor(16) as callers:
        list(callers.map(say, corpus(0, min(500, REQUESTS))))
        before = resident(front)
        list(callers.map(say, corpus(1, REQUESTS)))
    after = resident(front)
    assert {name: after[name] - before[name] > 20 * 2**20 for name in after} == dict.fromkeys(after, False)
    assert httpx.get(f"{front.url}/healthz").status_code == 200
    assert threading.active_count() < 50
