"""The besiegers, in a process of their own that leaves the processor to the others: they stand for other machines.

python -m tests.hostile.siege PORT: says "begun" once every slow head has a connection, and ends with its input.
"""

import asyncio
import os
import sys
from collections import Counter

from tests.hostile.raw import CLOSE, HOST, head

SLOW_HEADS, FLOODS, OVERSIZED = 500, 50, 50
AGAIN_S = 0.2
FLOOD = head(HOST, CLOSE, *(b"x-%d: %s" % (number, b"1" * 700) for number in range(60)))
BODY = head(HOST, CLOSE, b"Content-Length: 8000000") + b"x" * 2_000_000


async def slow_head(port: int, begun: asyncio.Semaphore) -> None:
    """Once more whenever the server has had enough."""
    while True:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /infer HTTP/1.1\r\nHost: runtime\r\n")
        begun.release()
        try:
            while not writer.is_closing():
                await asyncio.sleep(0.5)
                writer.write(b"x: 1\r\n")
                await writer.drain()
        except OSError:
            continue
        finally:
            writer.close()


async def again_and_again(port: int, sent_bytes: bytes, sent: Counter[bytes]) -> None:
    while True:
        sent[sent_bytes] += 1
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(sent_bytes)
            await writer.drain()
            await reader.read()
        except OSError:  # refused before it was sent
            pass
        finally:
            writer.close()
        await asyncio.sleep(AGAIN_S)


async def besiege(port: int) -> None:
    begun = asyncio.Semaphore(0)
    sent: Counter[bytes] = Counter()
    hostile = [asyncio.create_task(slow_head(port, begun)) for _ in range(SLOW_HEADS)]
    hostile += [
        asyncio.create_task(again_and_again(port, sent_bytes, sent))
        for sent_bytes in [FLOOD] * FLOODS + [BODY] * OVERSIZED
    ]
    for _ in range(SLOW_HEADS):
        await begun.acquire()
    print("begun", flush=True)
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    await asyncio.wait([ended, *hostile], return_when=asyncio.FIRST_COMPLETED)
    given_up = [task for task in hostile if task.done()]
    print(
        f"{SLOW_HEADS} slow heads, {sent[FLOOD]} floods, {sent[BODY]} oversized bodies; {len(given_up)} gave up",
        flush=True,
    )
    os._exit(bool(given_up))


if __name__ == "__main__":
    os.nice(10)
    asyncio.run(besiege(int(sys.argv[1])))
