"""Whether 500 loads and unloads leave the process as large as it was: `python -m benchmarks.residency cycles`."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.environment import machine
from benchmarks.library import library
from benchmarks.shelves import Shelf, model_of
from deployments.process_memory import ONE_ARENA, ProcessMemory

CYCLES = 500
MODELS = 5


async def turns(folder: Path) -> None:
    sizes = library(folder, MODELS)
    shelf = Shelf(folder, sum(sizes.values()), "ours")
    held = []
    started = time.monotonic()
    for cycle in range(CYCLES):
        name = sorted(sizes)[cycle % MODELS]
        await shelf.ask(name, sizes[name])
        assert await shelf.residency.unload(model_of(folder, name, sizes[name]))
        held.append(ProcessMemory().held() / 2**20)
    seconds = time.monotonic() - started
    await shelf.residency.close()
    warm = held[2 * MODELS :]
    print(f"{machine()}\n{CYCLES} times a model is loaded, answers and is unloaded, in {seconds:.0f} s")
    print(f"MiB after each: {warm[0]:.1f} after the first ten, {warm[-1]:.1f} at the end, ", end="")
    print(f"between {min(warm):.1f} and {max(warm):.1f}: within {max(warm) - min(warm):.1f}")


def cycles() -> None:
    """In a process that starts as replicas do."""
    subprocess.run([sys.executable, "-m", "benchmarks.cycles"], env=os.environ | ONE_ARENA, check=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        asyncio.run(turns(Path(temporary)))
