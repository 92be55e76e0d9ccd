"""Whether 500 loads and unloads leave the process as large as it was: `python -m benchmarks.residency cycles`.

Text models of five sizes; two image models of 14 MB, whose OpenVINO form is on disk.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.residency.cold import CONTESTS, FORMATS, first_answer, settle
from benchmarks.residency.library import library
from benchmarks.residency.shelves import Shelf, model_of
from deployments.replica.model_replica import ReplicaOptions
from deployments.repository.local import Repository
from deployments.system.process_memory import ONE_ARENA, ProcessMemory
from serve_app.bench.machine import machine

CYCLES = 500
MODELS = 5
WARM = 10


async def repeated(kind: str, turn: Callable[[int], Awaitable[None]]) -> None:
    """`turn` loads a model, lets it answer, and unloads it."""
    held, started = [], time.monotonic()
    for cycle in range(CYCLES):
        await turn(cycle)
        held.append(ProcessMemory().held() / 2**20)
    seconds, warm = time.monotonic() - started, held[WARM:]
    print(
        f"| {kind} | {seconds:.0f} | {warm[0]:.1f} | {warm[-1]:.1f} | {min(warm):.1f} | {max(warm):.1f} | "
        f"{max(warm) - min(warm):.1f} |",
        flush=True,
    )


async def texts(folder: Path) -> None:
    sizes = library(folder, MODELS)
    shelf = Shelf(folder, sum(sizes.values()), "ours")

    async def turn(cycle: int) -> None:
        name = sorted(sizes)[cycle % MODELS]
        await shelf.ask(name, sizes[name])
        assert await shelf.residency.unload(model_of(folder, name, sizes[name]))

    await repeated("texts", turn)
    await shelf.residency.close()


async def images(folder: Path) -> None:
    given = CONTESTS[1]
    for number in range(2):
        place = given.save(folder / "models" / f"m{number}")
        config = place / "config.json"
        config.write_text(config.read_text() + "\n" * number)  # another content
    options = ReplicaOptions(given.family, folder / "models", FORMATS, given.family.options(), folder / "cache")
    replica, models = given.replica(options), Repository(folder / "models", FORMATS).models()
    for model in models.values():
        await first_answer(replica, model, given.request)
        await asyncio.to_thread(settle, replica)
        assert any("OpenVINO" in note for status in replica.residency.statuses() for note in status.notes)
        assert await replica.residency.unload(model)

    async def turn(cycle: int) -> None:
        model = models[f"m{cycle % 2}"]
        await first_answer(replica, model, given.request)
        assert await replica.residency.unload(model)

    await repeated("images", turn)
    await replica.residency.close()


def cycles() -> None:
    """Each kind in a process that starts as replicas do."""
    print(f"{machine()}\n{CYCLES} times a model is loaded, answers and is unloaded; MiB of the process\n")
    print(f"| | seconds | after the first {WARM} | at the end | least | most | within |")
    print("|---|--:|--:|--:|--:|--:|--:|", flush=True)
    for kind in ("texts", "images"):
        subprocess.run(
            [sys.executable, "-m", "benchmarks.residency.cycles", kind], env=os.environ | ONE_ARENA, check=True
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        asyncio.run({"texts": texts, "images": images}[sys.argv[1]](Path(temporary)))
