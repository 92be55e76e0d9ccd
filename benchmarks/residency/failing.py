"""Whether 200 callers of a failing model slow a model in memory: `python -m benchmarks.residency failing`."""

import asyncio
import contextlib
import tempfile
import time
from pathlib import Path

from benchmarks.residency.library import library
from benchmarks.residency.shelves import Shelf
from deployments.contract.errors import ServingError
from serve_app.bench.machine import machine

SECONDS = 20.0
ROUNDS = 3
CALLERS = 200
EVERY_S = 1.0
"""Each of them repeats its request."""


async def contest(folder: Path) -> None:
    sizes = library(folder, models=5)
    good = min(sizes, key=lambda name: sizes[name])
    shelf = Shelf(folder, sum(sizes.values()), "ours")
    (folder / "bad").mkdir()
    (folder / "bad" / "config.json").write_text('{"model_type": "llama"}')

    async def p99(callers: int) -> float:
        until, latencies = time.monotonic() + SECONDS, []

        async def ask_the_failing_one(number: int) -> None:
            await asyncio.sleep(EVERY_S * number / CALLERS)
            while time.monotonic() < until:
                with contextlib.suppress(ServingError):
                    await shelf.ask("bad", 2**20)
                await asyncio.sleep(EVERY_S)

        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                group.create_task(ask_the_failing_one(number))
            while time.monotonic() < until:
                started = time.monotonic()
                await shelf.ask(good, sizes[good])
                latencies.append((time.monotonic() - started) * 1000)
        return sorted(latencies)[int(len(latencies) * 0.99)]

    await shelf.ask(good, sizes[good])
    print(f"{machine()}\n{CALLERS} callers who ask a model that fails to load once a second, {SECONDS:.0f} s a round\n")
    print("| p99 of a model in memory, ms: alone | beside them | ratio | attempts to load the one that fails |")
    print("|--:|--:|--:|--:|")
    for _ in range(ROUNDS):
        usual, before = await p99(0), shelf.loader.failed
        beside = await p99(CALLERS)
        print(f"| {usual:.1f} | {beside:.1f} | {beside / usual:.2f} | {shelf.loader.failed - before} |", flush=True)
    await shelf.residency.close()


def failing() -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(contest(Path(folder)))
