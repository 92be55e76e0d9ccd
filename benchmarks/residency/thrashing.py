"""Two models that need the same memory, and a model that nobody uses: `python -m benchmarks.residency thrashing`."""

import asyncio
import tempfile
import time
from pathlib import Path

import deployments.residency.loader
from benchmarks.models import save_llama
from benchmarks.residency.shelves import Shelf
from deployments.residency.ledger import MIB
from serve_app.bench.machine import machine

CLIENTS = (1, 4)
"""Of each model. With one, its model is idle between the requests; with four it never is."""
SECONDS = 10.0
STAYS = (0.0, 0.25, 1.0)


async def fight(root: Path, size: int, clients: int, stays: float) -> None:
    deployments.residency.loader.PROTECTED_LOADS = stays  # Only for this measurement.
    shelf = Shelf(root, size, "ours")
    for name in ("a", "b"):
        await shelf.ask(name, size)
    first = shelf.loader.tally.loads
    until = time.monotonic() + SECONDS
    latencies: list[float] = []
    answers = {"a": 0, "b": 0}

    async def client(name: str) -> None:
        while (started := time.monotonic()) < until:
            await shelf.ask(name, size)
            latencies.append((time.monotonic() - started) * 1000)
            answers[name] += 1

    await asyncio.gather(*(client(name) for name in ("a", "b") for _ in range(clients)))
    loads = shelf.loader.tally.loads - first
    await shelf.residency.close()
    ordered = sorted(latencies)
    print(
        f"| {clients} | {stays:.2f} | {answers['a']} + {answers['b']} | {loads} | "
        f"{len(latencies) / max(loads, 1):.1f} | "
        f"{ordered[len(ordered) // 2]:.0f} | {ordered[int(len(ordered) * 0.99)]:.0f} |",
        flush=True,
    )


async def idle(root: Path, size: int, idle_s: float) -> None:
    shelf = Shelf(root, size * 3, "ours")
    shelf.residency.idle_s = idle_s
    await shelf.ask("a", size)
    started = time.monotonic()
    while shelf.residency.model_names():
        shelf.residency.sweep()
        await asyncio.sleep(0.1)
    print(f"\nunload_idle_s {idle_s:.0f}: an unused model is unloaded after {time.monotonic() - started:.1f} s")


def thrashing() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a", "b"):
            save_llama(Path(folder) / name, layers=4, hidden=256, intermediate=768, heads=4)
        size = 20 * MIB
        print(f"{machine()}\ntwo models of 15 MB, memory for one, {SECONDS:.0f} s\n")
        print("| clients of each | protected for, loads | answers | loads | answers a load | p50 ms | p99 ms |")
        print("|--:|--:|--:|--:|--:|--:|--:|")
        for clients in CLIENTS:
            for stays in STAYS:
                asyncio.run(fight(Path(folder), size, clients, stays))
        asyncio.run(idle(Path(folder), size, 2.0))
