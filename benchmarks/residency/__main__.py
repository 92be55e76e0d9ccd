"""Sixty models of unequal size in a budget for about ten: `python -m benchmarks.residency [ours lru multiplexed]`.

Zipf traffic (α = 1) from 16 clients against one replica: the same requests at the same times for each contestant. Other
tables of docs/residency.md: `cold` (time to the first answer, beside `from_pretrained`), `unseen` (of text models never
seen), `changes` (how soon changes on disk take effect), `cycles` (500 loads and unloads), `failing` (whether a failing
model slows another), `thrashing` (two models that need the same memory), `overhead` (of a replica's process beside its
models).
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from benchmarks.residency.changes import changes
from benchmarks.residency.cold import cold
from benchmarks.residency.cycles import cycles
from benchmarks.residency.failing import failing
from benchmarks.residency.library import library
from benchmarks.residency.overhead import overhead
from benchmarks.residency.thrashing import thrashing
from benchmarks.residency.unseen import unseen
from serve_app.bench.machine import machine

MODELS = 60
CLIENTS = 16
RATE = 24.0
"""Requests a second, of all clients."""
MODELS_IN_BUDGET = 10


@dataclass
class Outcome:
    """Latencies count from the time that a request was due, without those that were not sent in time."""

    failed: int = 0
    unsent: int = 0
    latencies_ms: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def traffic(handle: Any, sizes: dict[str, int], seconds: float) -> Outcome:
    names = sorted(sizes, key=lambda name: random.Random(name).random())
    weights = [1 / rank for rank in range(1, len(names) + 1)]
    outcome = Outcome()
    start = time.monotonic()

    async def client(number: int) -> None:
        rng = random.Random(number)
        due = start + rng.expovariate(RATE / CLIENTS)
        while due < start + seconds:
            name = rng.choices(names, weights)[0]
            await asyncio.sleep(due - time.monotonic())
            if time.monotonic() > start + seconds:
                outcome.unsent += 1
            else:
                try:
                    await handle.ask.remote(name, sizes[name])
                except Exception as failure:
                    print(f"failed: {type(failure).__name__}: {str(failure).splitlines()[-1][:200]}", flush=True)
                    outcome.failed += 1
                outcome.latencies_ms.append((time.monotonic() - due) * 1000)
            due += rng.expovariate(RATE / CLIENTS)

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return outcome


def contest(contestants: list[str], seconds: float) -> None:
    import ray
    from ray import serve

    from benchmarks.residency.shelves import Multiplexed, Shelf

    with tempfile.TemporaryDirectory() as folder:
        sizes = library(Path(folder), MODELS)
        budget = sum(sizes.values()) * MODELS_IN_BUDGET // MODELS
        ray.init(address="local", num_cpus=4, object_store_memory=2**27, log_to_driver=False, include_dashboard=False)
        mib = [size / 2**20 for size in sizes.values()]
        print(f"{machine()}\n{MODELS} models of {min(mib):.1f}–{max(mib):.1f} MiB, {sum(mib):.0f} in all, ")
        print(f"budget {budget / 2**20:.0f} MiB, {CLIENTS} clients, {RATE:.0f} requests/s, {seconds:.0f} s\n")
        print("| | asked | not in time | failed | hit rate | loads | reload s | p50 ms | p99 ms | of budget | grew |")
        print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|", flush=True)
        for name in contestants:
            given: tuple[type, Any] = (Multiplexed, MODELS_IN_BUDGET) if name == "multiplexed" else (Shelf, budget)
            more = () if name == "multiplexed" else (name,)
            deployment: Any = serve.deployment(given[0])
            deployment = deployment.options(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 1})
            handle = serve.run(deployment.bind(Path(folder), given[1], *more), name=name, route_prefix=None)
            outcome = asyncio.run(traffic(handle, sizes, seconds))
            tally = handle.tally.remote().result()
            share = f"{tally.most_bytes / budget:.0%}" if tally.most_bytes else "–"
            requests, loads, late = tally.requests, tally.loads, outcome.unsent
            print(
                f"| {name} | {requests} | {late} | {outcome.failed} | {1 - loads / requests:.3f} | {loads} | "
                f"{tally.reload_s:.1f} | {outcome.percentile(0.5):.0f} | {outcome.percentile(0.99):.0f} | "
                f"{share} | {tally.process_mb:.0f} MiB |",
                flush=True,
            )
            serve.delete(name)
        ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.residency", description=__doc__)
    parser.add_argument("what", nargs="*", default=["ours", "lru", "multiplexed"])
    parser.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args()
    disable_progress_bar()
    alone: dict[str, Callable[[], None]] = {
        "cold": cold,
        "changes": changes,
        "thrashing": thrashing,
        "overhead": overhead,
        "cycles": cycles,
        "failing": failing,
    }
    if options.what[0] == "unseen":
        unseen(options.what[1:])
    elif len(options.what) == 1 and (run := alone.get(options.what[0])):
        run()
    else:
        contest(options.what, options.seconds)


if __name__ == "__main__":
    main()
