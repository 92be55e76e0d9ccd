"""Sixty models of unequal size in a budget for about ten: `python -m benchmarks.residency [ours lru multiplexed]`.

Zipf traffic (α = 1) from 16 clients against one replica: the same requests at the same times for each contestant. Other
claims of docs/residency.md: `cold` (to the first answer, beside `from_pretrained`), `changes` (how soon they are
noticed), `cycles` (500 loads and unloads), `failing` (whether a model that fails hurts another).
"""

import argparse
import asyncio
import contextlib
import gc
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.utils.logging import disable_progress_bar

from benchmarks.changes import changes
from benchmarks.cold import cold
from benchmarks.environment import machine
from benchmarks.models import VOCABULARY, tokenizer
from deployments.errors import ServingError
from deployments.process_memory import ProcessMemory

MODELS = 60
CLIENTS = 16
RATE = 24.0
"""Requests a second, of all clients."""
HELD = 10
LIBRARY_SEED = 20


def library(root: Path, models: int = MODELS) -> dict[str, int]:
    """Names, and what each model declares: its weights, and a quarter more for its cache."""
    rng = random.Random(LIBRARY_SEED)
    words = tokenizer()
    sizes = {}
    for number in range(models):
        hidden = min(512, max(96, int(rng.lognormvariate(5.3, 0.5)) // 32 * 32))
        config = LlamaConfig(
            num_hidden_layers=2,
            hidden_size=hidden,
            intermediate_size=hidden * 3,
            num_attention_heads=4,
            vocab_size=VOCABULARY,
            max_position_embeddings=64,
            bos_token_id=None,
            eos_token_id=None,
        )
        torch.manual_seed(number)
        folder = root / f"m{number:02d}"
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        words.save_pretrained(folder)
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        sizes[folder.name] = weights + weights // 4 + 2**20
    return sizes


@dataclass
class Outcome:
    """Latencies count from when a request was due. Those that were not asked in time are not in them."""

    failed: int = 0
    unasked: int = 0
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
                outcome.unasked += 1
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

    from benchmarks.shelves import Multiplexed, Shelf

    with tempfile.TemporaryDirectory() as folder:
        sizes = library(Path(folder))
        budget = sum(sizes.values()) * HELD // MODELS
        ray.init(address="local", num_cpus=4, object_store_memory=2**27, log_to_driver=False, include_dashboard=False)
        mib = [size / 2**20 for size in sizes.values()]
        print(f"{machine()}\n{MODELS} models of {min(mib):.1f}–{max(mib):.1f} MiB, {sum(mib):.0f} in all, ")
        print(f"budget {budget / 2**20:.0f} MiB, {CLIENTS} clients, {RATE:.0f} requests/s, {seconds:.0f} s\n")
        print("| | asked | not in time | failed | hit rate | loads | reload s | p50 ms | p99 ms | of budget | grew |")
        print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|", flush=True)
        for name in contestants:
            given: tuple[type, Any] = (Multiplexed, HELD) if name == "multiplexed" else (Shelf, budget)
            more = () if name == "multiplexed" else (name,)
            deployment: Any = serve.deployment(given[0])
            deployment = deployment.options(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 1})
            handle = serve.run(deployment.bind(Path(folder), given[1], *more), name=name, route_prefix=None)
            outcome = asyncio.run(traffic(handle, sizes, seconds))
            tally = handle.tally.remote().result()
            share = f"{tally.most_bytes / budget:.0%}" if tally.most_bytes else "–"
            requests, loads, late = tally.requests, tally.loads, outcome.unasked
            print(
                f"| {name} | {requests} | {late} | {outcome.failed} | {1 - loads / requests:.3f} | {loads} | "
                f"{tally.reload_s:.1f} | {outcome.percentile(0.5):.0f} | {outcome.percentile(0.99):.0f} | "
                f"{share} | {tally.process_mb:.0f} MiB |",
                flush=True,
            )
            serve.delete(name)
        ray.shutdown()


def cycles(count: int) -> None:
    """Loads and unloads the same few models over and over."""
    from deployments.engines.text_generation import TextGenerationEngine
    from deployments.process_memory import unload

    memory = ProcessMemory()
    with tempfile.TemporaryDirectory() as folder:
        names = sorted(library(Path(folder), models=5))
        seen = []
        started = time.monotonic()
        for number in range(count):
            engine = TextGenerationEngine.load(Path(folder) / names[number % len(names)], compile_steps=False)
            unload(engine, engine.resident_bytes, memory)
            del engine
            seen.append(memory.held() / 2**20)
        gc.collect()
    warm = seen[len(names) * 2 :]
    print(machine())
    print(f"{count} loads and unloads in {time.monotonic() - started:.0f} s: {warm[0]:.1f} MiB after the first ten, ")
    print(f"{warm[-1]:.1f} at the end, between {min(warm):.1f} and {max(warm):.1f}")


async def failing(seconds: float) -> None:
    """Whether a model that is in memory notices 200 callers of one that does not load."""
    from benchmarks.shelves import Shelf

    with tempfile.TemporaryDirectory() as folder:
        sizes = library(Path(folder), models=5)
        good = min(sizes, key=lambda name: sizes[name])
        shelf = Shelf(Path(folder), sum(sizes.values()), "ours")
        bad = Path(folder) / "bad"
        bad.mkdir()
        (bad / "config.json").write_text('{"model_type": "llama"}')

        async def p99(callers: int) -> float:
            until, latencies = time.monotonic() + seconds, []

            async def storm() -> None:
                while time.monotonic() < until:
                    with contextlib.suppress(ServingError):
                        await shelf.ask("bad", 2**20)
                    await asyncio.sleep(1)

            async with asyncio.TaskGroup() as group:
                for _ in range(callers):
                    group.create_task(storm())
                while time.monotonic() < until:
                    started = time.monotonic()
                    await shelf.ask(good, sizes[good])
                    latencies.append((time.monotonic() - started) * 1000)
            return Outcome(latencies_ms=latencies).percentile(0.99)

        await shelf.ask(good, sizes[good])
        usual, beside = await p99(0), await p99(200)
        print(f"p99 of a model in memory: {usual:.1f} ms alone, {beside:.1f} ms beside 200 callers of one that fails")
        print(f"attempts to load the one that fails: {shelf.loader.failed} in {seconds:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.residency", description=__doc__)
    parser.add_argument("what", nargs="*", default=["ours", "lru", "multiplexed"])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--cycles", type=int, default=500)
    options = parser.parse_args()
    disable_progress_bar()
    if options.what == ["failing"]:
        asyncio.run(failing(options.seconds / 4))
    elif options.what == ["cold"]:
        cold()
    elif options.what == ["changes"]:
        changes()
    elif options.what == ["cycles"]:
        cycles(options.cycles)
    else:
        contest(options.what, options.seconds)


if __name__ == "__main__":
    main()
