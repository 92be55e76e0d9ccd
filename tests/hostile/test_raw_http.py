"""HTTP itself, spoken by somebody hostile to HAProxy as it stands in front of the routes."""

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import psutil
import pytest

from serve_app.http.haproxy import haproxy_binary
from serve_app.http.header_limits import MAX_HEADERS
from tests.hostile.front import Front
from tests.hostile.raw import BODY, CHUNKED, CLOSE, GOOD, HOST, LENGTH, Received, chunks, corpus, exchange, head
from tests.support.until import wait_until

REQUESTS = int(os.environ.get("HOSTILE_REQUESTS", "4000"))
pytestmark = pytest.mark.skipif(haproxy_binary() is None, reason="there is no HAProxy")


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
    sent_bytes, status, code = REFUSED[what]
    received = exchange(front.port, sent_bytes, idle_s=1)
    assert received.statuses == [status]
    assert received.error_code() == code  # None: HAProxy could not read it and answers with its own page


ENCODINGS = {
    b"chunked": [200, 200, 400],
    b"Chunked": [200, 200, 400],
    b"\tchunked\t": [200, 200, 400],
    b"xchunked": [400, 400, 400],
    b"chunked, identity": [400, 400, 400],
    b"\x0bchunked": [400, 400, 400],
    b"identity, chunked": [422, 422, 422],
}
"""By transfer encoding: the status where the length says the same as the chunks, less, and more."""


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_nothing_is_smuggled_behind_two_lengths(front: Front, encoding: bytes) -> None:
    """Each is answered once and its connection closed; what follows it reaches the server by neither front-end."""
    smuggled = head(HOST, method=b"GET", path=b"/models")
    coded = b"Transfer-Encoding: " + encoding
    tries = [
        head(HOST, LENGTH, coded) + chunks(BODY) + smuggled,
        head(HOST, b"Content-Length: 4", coded) + chunks(BODY) + smuggled,
        head(HOST, coded, b"Content-Length: %d" % (5 + len(smuggled))) + b"0\r\n\r\n" + smuggled,
    ]
    before = front.reached("listed")
    for sent_bytes, status in zip(tries, ENCODINGS[encoding], strict=True):
        through = exchange(front.port, sent_bytes)
        assert (through.statuses, through.closed) == ([status], True)
        beside = exchange(front.direct_port, sent_bytes)
        assert (beside.statuses, beside.closed) == ([400], True)
        # Nor does another caller get its answer.
        assert b"TextGenerationResult" in exchange(front.port, GOOD).data
    assert front.reached("listed") == before
    assert exchange(front.port, head(HOST, CLOSE, method=b"GET", path=b"/models")).statuses == [200]
    assert front.reached("listed") == before + 1


def test_what_could_steer_serve_and_what_is_no_text_changes_nothing(front: Front) -> None:
    lines = [
        b"x-request-timeout-seconds: 0",
        b"x-request-disconnect-disabled: ?1",
        b"serve_multiplexed_model_id: \xff",
        b"x-request-id: \xff\xfe",
        b"accept-language: \xe9",
    ]
    for port in (front.port, front.direct_port):
        assert exchange(port, head(HOST, CLOSE, LENGTH, *lines) + BODY).statuses == [200]


def test_an_expectation_is_met(front: Front) -> None:
    received = exchange(front.port, head(HOST, CLOSE, LENGTH, b"Expect: 100-continue") + BODY)
    assert received.statuses == [200]


def slowly(port: int, sent_bytes: bytes, at_once: int) -> Received:
    """A byte every half second after the first `at_once`, until the server has had enough."""
    begin = time.monotonic()
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection:
        connection.sendall(sent_bytes[:at_once])
        for at in range(at_once, len(sent_bytes)):
            try:
                if not received:
                    connection.sendall(sent_bytes[at : at + 1])
                part = connection.recv(65536)
            except TimeoutError:
                if received:
                    break
                continue
            except OSError:
                break
            received += part
            if not part:
                break
    return Received(received, True, time.monotonic() - begin)


@pytest.mark.slow
def test_slow_heads_and_slow_bodies_end_while_others_are_answered(front: Front) -> None:
    endless = b"POST /infer HTTP/1.1\r\nHost: runtime\r\nx: " + b"a" * 10_000
    body = head(HOST, CLOSE, b"Content-Length: 100000") + b'{"' + b"x" * 10_000
    with ThreadPoolExecutor(2) as slow:
        ends = {
            "head": slow.submit(slowly, front.port, endless, 40),
            "body": slow.submit(slowly, front.port, body, 200),
        }
        while not all(end.done() for end in ends.values()):
            assert exchange(front.port, GOOD).statuses == [200]
    # At half a second a byte both would go on for hours.
    assert ends["head"].result().statuses == [408]
    assert ends["body"].result().error_code() == "request_timeout"
    assert min(end.result().took_s for end in ends.values()) > 8


@pytest.mark.parametrize(
    ("path", "content_type", "form"),
    [
        (b"/infer", b"application/json", b"%s"),
        (b"/infer/batch", b"application/json", b"[%s]"),
        (b"/infer/batch", b"application/x-ndjson", b"%s\n"),
        (b"/v1/completions", b"application/json", b'{"model":"endless","prompt":"p"}'),
    ],
)
def test_a_client_that_goes_takes_its_request_with_it(
    front: Front, path: bytes, content_type: bytes, form: bytes
) -> None:
    body = form.replace(b"%s", BODY.replace(b'"m"', b'"endless"'))
    sent_bytes = head(HOST, b"Content-Type: " + content_type, b"Content-Length: %d" % len(body), path=path) + body
    with ExitStack() as connections:
        for _ in range(20):
            connections.enter_context(socket.create_connection(("127.0.0.1", front.port))).sendall(sent_bytes)
        wait_until(lambda: front.reached("under_way") == 20)
    wait_until(lambda: front.reached("under_way") == 0)


def resident(front: Front) -> dict[str, int]:
    return {name: psutil.Process(pid).memory_info().rss for name, pid in front.processes.items()}


@pytest.mark.slow
def test_a_corpus_of_broken_requests_meets_no_5xx_no_hang_and_costs_no_memory(front: Front) -> None:
    """HOSTILE_REQUESTS=20000 is `make fuzz-http`."""

    def send_all(sent_bytes: bytes) -> None:
        # What is cut short is closed by us: to the server, a client that went away.
        with socket.create_connection(("127.0.0.1", front.port), timeout=30) as connection:
            received = b""
            try:
                connection.sendall(sent_bytes)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65536):
                    received += part
            except TimeoutError:
                raise
            except OSError:  # refused before it was sent
                return
        statuses = Received(received, True, 0).statuses
        assert not [status for status in statuses if status >= 500], (sent_bytes, received)

    with ThreadPoolExecutor(16) as callers:
        list(callers.map(send_all, corpus(0, min(500, REQUESTS))))
        before = resident(front)
        list(callers.map(send_all, corpus(1, REQUESTS)))
    after = resident(front)
    assert {name: after[name] - before[name] > 20 * 2**20 for name in after} == dict.fromkeys(after, False)
    assert httpx.get(f"{front.url}/healthz").status_code == 200
