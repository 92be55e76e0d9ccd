"""The requests of the conformance test, and what of a reply has to be the same however the runtime was started."""

import base64
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

from tests.hostile.raw import CHUNKED, CLOSE, HOST, chunks, exchange, head
from tests.support.tiny_models import padded_picture

JSON_TYPE = b"Content-Type: application/json"
CONTRACT_HEADERS = (
    "content-type",
    "retry-after",
    "allow",
    "cache-control",
    "x-accel-buffering",
    "www-authenticate",
    "access-control-allow-origin",
    "vary",
)
MIB = 1 << 20
_OWN = re.compile(rb'"(request_id|id|created|time|started_at)": ?("[^"]*"|[0-9.]+)')


def text(**fields: object) -> bytes:
    return json.dumps({"TextGeneration": {"model_id": "text", "prompt": "a", "max_tokens": 4} | fields}).encode()


def picture(size: int) -> bytes:
    """A request with a picture's file of that size: all of it goes to the replica."""
    image = base64.b64encode(padded_picture(size)).decode()
    return json.dumps({"ImageClassification": {"model_id": "image", "image_data": image}}).encode()


def post(body: bytes, *headers: bytes, path: bytes = b"/infer", method: bytes = b"POST") -> bytes:
    length = b"Content-Length: %d" % len(body)
    return head(HOST, CLOSE, JSON_TYPE, length, *headers, path=path, method=method) + body


def get(path: bytes, *headers: bytes, method: bytes = b"GET") -> bytes:
    return head(HOST, CLOSE, *headers, path=path, method=method)


H2C = (b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAAB")


def upgrading(body: bytes) -> bytes:
    length = b"Content-Length: %d" % len(body)
    return head(HOST, b"Connection: Upgrade, HTTP2-Settings, close", *H2C, JSON_TYPE, length) + body


@cache
def requests() -> dict[str, bytes]:
    return {
        "a text": post(text()),
        "a text as a stream": post(text(stream=True)),
        "a text on /v1": post(b'{"model":"text","prompt":"a","max_tokens":4,"temperature":0}', path=b"/v1/completions"),
        "a body in chunks": head(HOST, CLOSE, JSON_TYPE, CHUNKED) + chunks(text()),
        "a picture of 6 MiB": post(picture(6 * MIB)),
        "a picture of 20 MiB": post(picture(20 * MIB)),
        "a body above max_body_mb, declared": head(HOST, CLOSE, JSON_TYPE, b"Content-Length: 99999999"),
        "a body above max_body_mb, in chunks": head(HOST, CLOSE, JSON_TYPE, CHUNKED) + chunks(*[b" " * MIB] * 34),
        "a JDK's upgrade to h2c with a body": upgrading(text()),
        "a websocket": get(b"/infer", b"Upgrade: websocket", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
        "x-request-timeout-seconds: 0.001": post(text(), b"x-request-timeout-seconds: 0.001"),
        "x-request-timeout-seconds: nan": post(text(), b"x_request_timeout_seconds: nan"),
        "x-request-disconnect-disabled": post(text(), b"x-request-disconnect-disabled: 1"),
        "serve_multiplexed_model_id": post(text(), b"serve_multiplexed_model_id: \xff\xfe"),
        "an x-request-id": post(text(model_id="nope"), b"x-request-id: given-1"),
        "an x-deadline-ms": post(text(), b"x-deadline-ms: 0"),
        "no JSON": post(b"{"),
        "another media type": head(HOST, CLOSE, b"Content-Type: text/csv", b"Content-Length: 1") + b"a",
        "an unknown model": post(text(model_id="nope")),
        "GET /-/routes": get(b"/-/routes"),
        "GET /-/healthz": get(b"/-/healthz"),
        "GET /healthz": get(b"/healthz"),
        "GET /readyz": get(b"/readyz"),
        "GET /v1/models": get(b"/v1/models"),
        "GET /nope": get(b"/nope"),
        "GET /v1/nope": get(b"/v1/nope"),
        "GET //infer": get(b"//infer"),
        "GET /infer": get(b"/infer"),
        "DELETE /infer": get(b"/infer", method=b"DELETE"),
        "HEAD /healthz": get(b"/healthz", method=b"HEAD"),
        "OPTIONS with an origin": get(b"/infer", b"Origin: http://a.example", method=b"OPTIONS"),
        "65 headers": get(b"/healthz", *[b"x: 1"] * 65),
        "a head of 20 kB": get(b"/healthz", b"x: " + b"1" * 20_000),
        "no host": head(CLOSE, path=b"/healthz", method=b"GET"),
        "a head that never ends": b"GET /healthz HTTP/1.1\r\nHost: runtime\r\n",
        "a body that comes too slowly": head(HOST, CLOSE, JSON_TYPE, b"Content-Length: 100") + b"{",
    }


BY_HAPROXY = {"GET /-/routes", "a body above max_body_mb, declared", "a body that comes too slowly"}
"""Answered by HAProxy or by an ingress, as the runtime was started: status and code are the same."""
MANY_AT_ONCE = 16


@dataclass(frozen=True)
class Reply:
    """What is the same however the runtime was started: not ids, times and the server's own headers."""

    statuses: tuple[int, ...]
    headers: tuple[tuple[str, str], ...]
    has_id: bool
    body: bytes

    def __str__(self) -> str:
        code = re.search(rb'"code": ?"(\w+)"', self.body)
        shown = " ".join(map(str, sorted(set(self.statuses))))
        return f"{shown} {code[1].decode()}" if code else shown


def reply_of(port: int, sent: bytes) -> Reply:
    received = exchange(port, sent, idle_s=100)
    front = received.data.partition(b"\r\n\r\n")[0].decode("latin-1")
    pairs = [line.partition(": ") for line in front.split("\r\n")[1:]]
    headers = {name.lower(): value for name, _, value in pairs}
    body = b"" if b"text/event-stream" in received.data else _OWN.sub(rb'"\1":0', received.body)
    if b"text/event-stream" in received.data:
        body = b"".join(re.findall(rb"event: \w+", received.data)[-1:])
    return Reply(
        tuple(received.statuses),
        tuple((name, headers[name]) for name in CONTRACT_HEADERS if name in headers),
        "x-request-id" in headers,
        body,
    )


def replies(port: int) -> dict[str, Reply]:
    """To each request; and to pictures of 1 MiB, many of them at once. The models are loaded before."""
    for sent in (post(text()), post(picture(0))):
        reply_of(port, sent)
    with ThreadPoolExecutor(len(requests())) as callers:  # The slow ones wait beside each other.
        answers = callers.map(lambda sent: reply_of(port, sent), requests().values())
        found = dict(zip(requests(), answers, strict=True))
    large = post(picture(MIB))
    with ThreadPoolExecutor(MANY_AT_ONCE) as callers:
        many = list(callers.map(lambda _: reply_of(port, large), range(MANY_AT_ONCE)))
    whole = tuple(status for reply in many for status in reply.statuses)
    found[f"{MANY_AT_ONCE} pictures of 1 MiB at once"] = Reply(whole, many[0].headers, many[0].has_id, many[0].body)
    return found
