"""Open-loop load: requests leave when they are due, however many are still unanswered, as those of many callers do."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

ANSWER_S = 30.0


@dataclass(frozen=True, slots=True)
class Answered:
    """One request, on the clock of time.perf_counter. `status` 0: no answer came."""

    start: float
    end: float
    status: int
    retry_after: bool

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

    async def post(self) -> Answered:
        start = time.perf_counter()
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection(*self.address)
                writer.write(self.said)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
                await reader.readexactly(length)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return Answered(start, time.perf_counter(), 0, False)
        self.idle.append((reader, writer))
        return Answered(start, time.perf_counter(), int(head[9:12]), b"\r\nretry-after:" in head)

    async def at(self, rate: float, seconds: float) -> list[Answered]:
        """`rate` requests a second, evenly. Returns when all are answered."""
        begin = time.perf_counter()
        sent: list[asyncio.Task[Answered]] = []
        while (now := time.perf_counter() - begin) < seconds:
            while len(sent) < now * rate:
                sent.append(asyncio.create_task(self.post()))
            await asyncio.sleep(0.002)
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
    times = sorted(answer.took_ms for answer in answers)
    return times[min(len(times) - 1, int(len(times) * share))] if times else 0.0
