"""Connections that post bodies to `/infer` and time the answers. Costs a tenth of what a general client costs.

Only what a runtime answers is parsed: a status, `content-length` or chunks, and server-sent events.
"""

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from serve_app.bench.loops import Answer

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as JSON, and the model that it asks."""

    body: bytes
    name: str


@dataclass
class Connections:
    """To one runtime; each is used for one request at a time. `timeout_s` bounds a request."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 120.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        self._host, secure = parts.hostname or "127.0.0.1", parts.scheme == "https"
        self._port = parts.port or (443 if secure else 80)
        self._tls = ssl.create_default_context() if secure else None
        given = {"host": parts.netloc.rpartition("@")[2], "content-type": JSON, **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        self._head = f"POST {parts.path.rstrip('/')}/infer HTTP/1.1\r\n{lines}"
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, sent: Sent) -> Answer:
        """Never raises: what does not come is an Answer with an error."""
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._ask(sent)
        except TimeoutError:
            return Answer(0, error="no answer")
        except (OSError, EOFError, ValueError) as failure:
            return Answer(0, error=f"connection: {type(failure).__name__}")

    async def _ask(self, sent: Sent) -> Answer:
        reused = bool(self._idle)
        reader, writer = self._idle.pop() if reused else await self._open()
        try:
            writer.write(f"{self._head}content-length: {len(sent.body)}\r\n\r\n".encode() + sent.body)
            status, headers = await _head(reader)
            first_at, body = await _body(reader, headers)
        except BaseException:
            writer.close()
            raise
        if headers.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return _answer(status, headers, first_at, body)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._port, ssl=self._tls, limit=2**20)

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        self._idle.clear()


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split()[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> tuple[float | None, bytes]:
    """The body, and when its first part came, where it comes in parts."""
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return None, await reader.readexactly(int(headers.get("content-length", "0")))
    clock: Callable[[], float] = asyncio.get_running_loop().time
    first_at, parts = None, []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
        if first_at is None and b"event: token" in parts[-1]:
            first_at = clock()
    await reader.readuntil(b"\r\n")
    return first_at, b"".join(parts)


def _answer(status: int, headers: Mapping[str, str], first_at: float | None, body: bytes) -> Answer:
    if headers.get("content-type", "").startswith("text/event-stream"):
        body = body.rpartition(b"event: result\ndata: ")[2]
    try:
        ((variant, result),) = json.loads(body).items()
    except ValueError:
        return Answer(0, error=f"status {status}")
    if variant == "Error":
        return Answer(0, error=result.get("code") or f"status {status}")
    tokens = (result.get("usage") or {}).get("completion_tokens", 0)
    return Answer(1, first_at, tokens)
