"""The memory of a replica's process beside its models while it answers: `python -m benchmarks.residency overhead`.

A dozen models of about 15 MB in memory for four, Zipf traffic from 16 clients. The resting size is that of a replica
that is ready and has loaded nothing yet, as in Serve.
"""

import asyncio
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.models import jpeg
from benchmarks.residency.cold import CONTESTS, FORMATS, Contest
from deployments.contract.errors import ServingError
from deployments.contract.types import ImageClassification
from deployments.replica.calls import Call
from deployments.replica.model_replica import ModelReplica, ReplicaOptions
from deployments.repository.local import Repository
from deployments.residency.ledger import MIB
from deployments.system.process_memory import ONE_ARENA
from serve_app.bench.machine import machine

MODELS = 12
CLIENTS = 16
SECONDS = 20.0
BUDGET_MB = 80
LARGE = jpeg(4000, 3000, 2)


@dataclass
class Seen:
    most: int = 0
    answers: int = 0
    failed: int = 0


async def traffic(given: Contest, root: Path, large_pictures: bool) -> None:
    options = ReplicaOptions(
        given.family, root, FORMATS, given.family.options(required_mem_mb=BUDGET_MB), root.parent / "cache"
    )
    replica: ModelReplica[Any, Any] = given.replica(options)
    await replica.ready()
    at_rest = set(threading.enumerate())
    models = Repository(root, FORMATS).models()
    names = sorted(models)
    weights = [1 / rank for rank in range(1, len(names) + 1)]
    until, seen = time.monotonic() + SECONDS, Seen()

    async def client(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < until:
            name = rng.choices(names, weights)[0]
            request = given.request
            if large_pictures and rng.random() < 0.25:
                request = ImageClassification(model_id=name, image_data=LARGE)
            try:
                await replica.infer(Call(request, "", 60.0, models[name]))
            except ServingError as failure:
                print(failure, flush=True)
                seen.failed += 1
            seen.answers += 1

    async def watch() -> None:
        while time.monotonic() < until:
            seen.most = max(seen.most, replica.footprint.overhead_bytes)
            await asyncio.sleep(0.02)

    await asyncio.gather(watch(), *(client(number) for number in range(CLIENTS)))
    for name in names:
        await replica.residency.unload(models[name])
    for thread in threading.enumerate():
        if thread.daemon and thread not in at_rest:  # compiles an image model
            await asyncio.to_thread(thread.join)
    replica.residency.memory.device_memory.give_back()
    rest = replica.footprint.overhead_bytes
    kind = f"{given.family.name}{', a quarter 12 megapixels' if large_pictures else ''}"
    print(
        f"| {kind} | {seen.answers} | {seen.failed} | {sum(s.loads for s in await replica.statuses())} | "
        f"{replica.footprint.resting_bytes / MIB:.0f} | {seen.most / MIB:.0f} | {rest / MIB:.0f} |",
        flush=True,
    )
    await replica.residency.close()


def run_alone(number: int, large_pictures: bool) -> None:
    """In this process, which should have done nothing else."""
    given = CONTESTS[number]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "models"
        first = given.save(root / "m00")
        for other in range(1, MODELS):
            shutil.copytree(first, root / f"m{other:02d}")
        asyncio.run(traffic(given, root, large_pictures))


def overhead() -> None:
    print(f"{machine()}\n{MODELS} models of 15 MB, required_mem_mb {BUDGET_MB}, {CLIENTS} clients, {SECONDS:.0f} s")
    stated = [given.replica.stated_overhead / MIB for given in CONTESTS]
    print(f"stated: {stated[0]:.0f} and {stated[1]:.0f} MiB\n")
    print("| MiB | answers | failed | loads | at rest | most beside the models | after all were unloaded |")
    print("|---|--:|--:|--:|--:|--:|--:|", flush=True)
    for number, large in ((0, False), (1, False), (1, True)):
        code = f"from benchmarks.residency.overhead import run_alone; run_alone({number}, {large})"
        # As replicas start.
        subprocess.run([sys.executable, "-c", code], env=os.environ | ONE_ARENA, check=True, stderr=subprocess.DEVNULL)
