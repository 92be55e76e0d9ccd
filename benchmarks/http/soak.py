"""`soak`: 100,000 requests of mixed kinds in one run, and what every process holds before, half way and after."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.environment import FOLDER
from benchmarks.http.mixed import Kind, Mixture, kinds
from benchmarks.report import US, aligned
from benchmarks.servers import Server, running, settle
from deployments.families.image_classification.family import SAMPLE_IMAGE
from serve_app.bench.machine import machine

WARM_UP = 5_000
MODELS = FOLDER.parent / "models"
IMAGE_MODEL, TEXT_MODEL = "image_classifier_v1", "gpt-nano"
SETTLE_S = 20.0
MIB = 2**20
GROWS_MIB, GROWS_DESCRIPTORS, GROWS_THREADS = 8.0, 8, 4
"""In the second half alone, beyond which it is a leak: what leaks grows as long as requests come."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one process holds. `memory`: bytes that are of no file, those that it still shares with its parent included:
    to write to them takes no more."""

    name: str
    memory: int
    descriptors: int
    threads: int


Holdings = dict[int, Holding]
"""By process id."""


def holdings(processes: Iterable[psutil.Process]) -> Holdings:
    held = {}
    for process in processes:
        try:
            with process.oneshot():
                memory = process.memory_info()
                anonymous = memory.rss - memory.shared
                held[process.pid] = Holding(process.name(), anonymous, process.num_fds(), process.num_threads())
        except psutil.Error:  # it has ended, or is about to
            continue
    return held


@dataclass(frozen=True, slots=True)
class Soaked:
    warm_up: int
    sent: Counter[str]
    unlike: Counter[tuple[str, int]]
    took_s: float
    before: Holdings
    halfway: Holdings
    after: Holdings

    @property
    def leaks(self) -> list[str]:
        """Which process grew in the second half, or ended, and by how much."""
        told = []
        for pid, half in self.halfway.items():
            end = self.after.get(pid)
            if end is None:
                told.append(f"{half.name} ({pid}) has ended")
                continue
            grown = {
                "MiB": (end.memory - half.memory) / MIB - GROWS_MIB,
                "descriptors": end.descriptors - half.descriptors - GROWS_DESCRIPTORS,
                "threads": end.threads - half.threads - GROWS_THREADS,
            }
            told += [f"{half.name} ({pid}) grows in {what}" for what, beyond in grown.items() if beyond > 0]
        return told

    @property
    def failed(self) -> bool:
        return bool(self.leaks or self.unlike)

    def markdown(self) -> str:
        count = self.sent.total()
        rows = [self._row(pid) for pid in sorted(self.halfway, key=lambda pid: -self.halfway[pid].memory)]
        unlike = ", ".join(f"{times} × {kind}: {status}" for (kind, status), times in self.unlike.items())
        sent = ", ".join(f"{times} {kind}" for kind, times in sorted(self.sent.items()))
        return (
            f"{count} requests in {self.took_s:.0f} s, {count / self.took_s:.0f} a second. Not answered as they should "
            f"be: {unlike or 'none'}. Leaks: {', '.join(self.leaks) or 'none'}.\n\n"
            + aligned(["process", "MiB of its own", "descriptors", "threads"], rows)
            + f"\n\nBefore (after {self.warm_up} requests to warm up) → half way → after. {sent}.\n"
        )

    def _row(self, pid: int) -> list[str]:
        stages = [stage.get(pid) for stage in (self.before, self.halfway, self.after)]
        columns: list[Callable[[Holding], str]] = [
            lambda one: f"{one.memory / MIB:.1f}",
            lambda one: str(one.descriptors),
            lambda one: str(one.threads),
        ]
        return [
            self.halfway[pid].name,
            *(" → ".join("–" if s is None else show(s) for s in stages) for show in columns),
        ]


async def soak(
    url: str, of_kinds: Sequence[Kind], count: int, look: Callable[[], Holdings], warm_up: int = WARM_UP
) -> Soaked:
    """`look` tells what the processes hold, once they are at rest."""
    mixture = Mixture(url, of_kinds)
    took_s = 0.0
    stages: list[Holdings] = []
    for part in (warm_up, count // 2, count - count // 2):
        begin = time.perf_counter()
        await mixture.send(part)
        took_s = time.perf_counter() - begin + (took_s if stages else 0.0)
        print(f"{part} requests, {time.perf_counter() - begin:.0f} s", flush=True)
        if not stages:
            mixture.sent.clear()
        stages.append(look())
    return Soaked(warm_up, mixture.sent, mixture.unlike, took_s, *stages)


def run(count: int, folder: Path) -> Soaked:
    """Against a `model-runtime serve` with the bundled models, one replica each: what comes and goes cannot be told
    from a leak."""
    config = folder / "runtime.yaml"
    one = "{autoscaling: {max_replicas: 1}}"
    config.write_text(f"models: {MODELS}\nfamilies: {{image_classification: {one}, text_generation: {one}}}\n", "utf-8")
    of_kinds = kinds(IMAGE_MODEL, TEXT_MODEL, SAMPLE_IMAGE.read_bytes())
    server = Server(
        US,
        (Path(sys.executable).with_name("model-runtime"), "serve", "--config", config, "--port", "{port}"),
        "/infer",
        lambda text: {"TextGeneration": {"model_id": TEXT_MODEL, "prompt": text, "max_tokens": 2}},
        lambda reply: reply,
        {"PYTHONPATH": str(FOLDER.parent)},
    )

    def look() -> Holdings:
        settle(SETTLE_S)
        return holdings(psutil.Process().children(recursive=True))

    with running(server, "ROMEO:") as url:
        return asyncio.run(soak(url, of_kinds, count, look))


def heading(count: int) -> str:
    return f"## python -m benchmarks soak\n\n`python -m benchmarks soak --requests {count}`. {machine()}.\n"
