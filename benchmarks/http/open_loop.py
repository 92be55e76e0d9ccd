"""Open-loop load: requests leave when they are due, however many are still unanswered, as those of many callers do.

`late_ms` tells how late the caller itself was: its own delays are part of the times that it measures.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

ANSWER_S = 30.0
TURN_S = 0.002


@dataclass(frozen=True, slots=True)
class Answered:
    """One request, on the clock of time.perf_counter. `status` 0: no answer came."""

    start: float
    end: float
    status: int
    retry_after: bool
    body: bytes = b""

    @property
    def took_ms(self) -> float:
        return (self.end - self.start) * 1e3


class Caller:
    """Posts one body over connections that it keeps."""

    def __init__(self, url: str, body: bytes) -> None:
        parts = urlsplit(url)
        self.address = (parts.hostname or "127.0.0.1", parts.port or 80)
        head = f"POST {parts.path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        self.said = head.encode() + b"\r\n\r\n" + body
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.late_ms: list[float] = []
        """Of every turn of the last open loop."""

    async def post(self) -> Answered:
        start = time.perf_counter()
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection(*self.address)
                writer.write(self.said)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
                said = await reader.readexactly(length)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return Answered(start, time.perf_counter(), 0, False)
        self.idle.append((reader, writer))
        return Answered(start, time.perf_counter(), int(head[9:12]), b"\r\nretry-after:" in head, said)

    async def at(self, rate: float, seconds: float) -> list[Answered]:
        """`rate` requests a second, evenly. Returns when all are answered."""
        begin = time.perf_counter()
        sent: list[asyncio.Task[Answered]] = []
        self.late_ms = []
        while (now := time.perf_counter() - begin) < seconds:
            while len(sent) < now * rate:
                sent.append(asyncio.create_task(self.post()))
            await asyncio.sleep(TURN_S)
            self.late_ms.append((time.perf_counter() - begin - now - TURN_S) * 1e3)
        return list(await asyncio.gather(*sent))

    async def by(self, callers: int, seconds: float) -> list[Answered]:
        """So many callers, each asking again as soon as it has its answer."""
        end = time.perf_counter() + seconds

        async def ask() -> list[Answered]:
            answers = []
            while time.perf_counter() < end:
                answers.append(await self.post())
            return answers

        return [answer for answers in await asyncio.gather(*(ask() for _ in range(callers))) for answer in answers]

    def close(self) -> None:
        for _, writer in self.idle:
            writer.close()


def percentile(answers: Sequence[Answered], share: float) -> float:
    """Of the times, in milliseconds; 0 of none."""
    return quantile([answer.took_ms for answer in answers], share)


def quantile(values: Sequence[float], share: float) -> float:
    """0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
