"""HTTP as it should not be: bytes for a socket, and what comes back."""

import json
import random
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

BODY = b'{"TextGeneration":{"model_id":"m","prompt":"p","max_tokens":5}}'
WAIT_S = 30


@dataclass(frozen=True)
class Received:
    """Everything that a server sent until it closed, or until `idle_s` of silence."""

    data: bytes
    closed: bool
    took_s: float

    @property
    def statuses(self) -> list[int]:
        """Of each response, informational ones left out."""
        lines = [part.split(b"\r\n", 1)[0] for part in self.data.split(b"HTTP/1.1 ")[1:]]
        return [int(line[:3]) for line in lines if not line.startswith(b"1")]

    @property
    def body(self) -> bytes:
        return self.data.rpartition(b"\r\n\r\n")[2]

    def error_code(self) -> str | None:
        """Of the union's Error, where that is the last response's body."""
        try:
            return str(json.loads(self.body)["Error"]["code"])
        except (ValueError, KeyError, TypeError):
            return None


def exchange(port: int, sent_bytes: bytes, idle_s: float = 5.0) -> Received:
    """Sends everything and receives until the server closes or is silent. Raises TimeoutError if it never answers."""
    begin = time.monotonic()
    received = b""
    closed = False
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
        try:
            connection.sendall(sent_bytes)
            connection.settimeout(idle_s)
            while part := connection.recv(65536):
                received += part
            closed = True
        except TimeoutError:
            if not received:
                raise
        except OSError:  # refused while it was still being sent
            closed = True
    return Received(received, closed, time.monotonic() - begin)


def head(*lines: bytes, path: bytes = b"/infer", method: bytes = b"POST", version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([b" ".join([method, path, version]), *lines, b"", b""])


HOST = b"Host: runtime"
CLOSE = b"Connection: close"
LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


GOOD = head(HOST, CLOSE, LENGTH) + BODY


def corpus(seed: int, count: int) -> Iterator[bytes]:
    """Requests of every kind, most of them broken somewhere. Each closes its connection or is cut short."""
    dice = random.Random(seed)
    for _ in range(count):
        sent_bytes = bytearray(dice.choice(_SEEDS))
        for _ in range(dice.choice((0, 1, 1, 2, 4))):
            _MUTATIONS[dice.randrange(len(_MUTATIONS))](dice, sent_bytes)
        yield bytes(sent_bytes)


def _flip(dice: random.Random, sent_bytes: bytearray) -> None:
    sent_bytes[dice.randrange(len(sent_bytes))] = dice.randrange(256)


def _cut(dice: random.Random, sent_bytes: bytearray) -> None:
    del sent_bytes[dice.randrange(len(sent_bytes)) + 1 :]


def _repeat_line(dice: random.Random, sent_bytes: bytearray) -> None:
    lines = bytes(sent_bytes).split(b"\r\n")
    lines.insert(dice.randrange(1, len(lines) + 1), dice.choice(lines))
    sent_bytes[:] = b"\r\n".join(lines)


def _insert_line(dice: random.Random, sent_bytes: bytearray) -> None:
    lines = bytes(sent_bytes).split(b"\r\n")
    lines.insert(dice.randrange(1, len(lines) + 1), dice.choice(_LINES))
    sent_bytes[:] = b"\r\n".join(lines)


def _swap_ends(dice: random.Random, sent_bytes: bytearray) -> None:
    sent_bytes[:] = bytes(sent_bytes).replace(
        b"\r\n", dice.choice((b"\n", b"\r", b"\r\r\n", b"\n\r")), dice.randrange(1, 4)
    )


def _grow(dice: random.Random, sent_bytes: bytearray) -> None:
    at = dice.randrange(len(sent_bytes))
    sent_bytes[at:at] = bytes([dice.choice(b"A0 :/\x00\xff\t,")]) * dice.choice((10, 1000, 20_000, 70_000))


_MUTATIONS = (_flip, _flip, _cut, _repeat_line, _insert_line, _insert_line, _swap_ends, _grow)

_LINES = (
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding:\x0bchunked",
    b"Content-Length: 0",
    b"Content-Length: 5",
    b"Content-Length: +63",
    b"Content-Length: 63, 63",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: -1",
    b"Content-Length: 0x3f",
    b" folded: line",
    b"Host: other",
    b"Host: a b",
    b"Host: http://evil/",
    b"Host:",
    b"Expect: 100-continue",
    b"Expect: 200-ok",
    b"Connection: upgrade",
    b"Upgrade: websocket",
    b"Upgrade: h2c",
    b"HTTP2-Settings: AAMAAABkAAQAAP__",
    b"Content-Encoding: gzip",
    b"Content-Type: multipart/form-data; boundary=" + b"x" * 300,
    b"Content-Type: application/msgpack",
    b"Content-Type: application/x-bincode",
    b"Content-Type: application/x-ndjson",
    b"Accept: " + b"*/*," * 500,
    b"x-request-timeout-seconds: nan",
    b"x-request-disconnect-disabled: ?1",
    b"serve_multiplexed_model_id: \xff\xfe",
    b"x-request-id: \xff\xfe\x00",
    b"x-deadline-ms: 99999999999999999999",
    b"x-priority: \xff",
    b"Cookie: " + b"a=b; " * 2000,
    b"no colon here",
    b": no name",
    b"na me: x",
    b"X: \x00",
    b"Range: bytes=0-",
    b"Trailer: x",
    b"TE: trailers",
)

_NDJSON = b"Content-Type: application/x-ndjson"
_SEEDS = (
    GOOD,
    GOOD,
    head(HOST, CLOSE, CHUNKED) + chunks(BODY[:20], BODY[20:]),
    head(HOST, CLOSE, LENGTH, CHUNKED) + chunks(BODY),
    head(HOST, CLOSE, _NDJSON, b"Content-Length: %d" % (2 * len(BODY) + 1), path=b"/infer/batch")
    + BODY
    + b"\n"
    + BODY,
    head(HOST, CLOSE, b"Content-Length: %d" % (len(BODY) + 2), path=b"/infer/batch") + b"[" + BODY + b"]",
    head(HOST, CLOSE, method=b"GET", path=b"/healthz"),
    head(HOST, CLOSE, method=b"GET", path=b"/models"),
    head(HOST, CLOSE, method=b"GET", path=b"/" + b"%2e%2e/" * 50),
    head(HOST, CLOSE, method=b"GET", path=b"http://other/healthz"),
    head(HOST, method=b"OPTIONS", path=b"*"),
    head(HOST, method=b"CONNECT", path=b"other:80"),
    head(CLOSE, method=b"GET", path=b"/healthz", version=b"HTTP/1.0"),
    head(HOST, method=b"PRI", path=b"*", version=b"HTTP/2.0") + b"SM\r\n\r\n",
    head(HOST, LENGTH) + BODY + head(HOST, CLOSE, method=b"GET", path=b"/healthz"),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    b"GET /healthz\r\n\r\n",
)  # fmt: skip
