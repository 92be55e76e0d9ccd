"""The image engine alone, decoding included, a program that `engine_process` starts."""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine_process import obey
from deployments.engines.device import default_device
from deployments.engines.vision.engine import ImageClassificationEngine
from deployments.families.image_classification.executors import ForwardExecutors
from deployments.replica.batching import Batcher
from deployments.system.artifact_cache import ArtifactCache
from serve_app.bench.loops import Measure, Span, summarise

Classify = Callable[[bytes], Awaitable[np.ndarray]]


async def measured(classify: Classify, file: bytes, connections: int, lead_in_s: float, seconds: float) -> Measure:
    """`connections` callers ask one after the other; counted after the lead-in. Pictures a second."""
    spans: list[Span] = []
    begin = time.perf_counter() + lead_in_s
    end = begin + seconds

    async def caller() -> None:
        while (start := time.perf_counter()) < end:
            await classify(file)
            spans.append(Span(start, time.perf_counter(), 1))

    await asyncio.gather(*(caller() for _ in range(connections)))
    return summarise(spans, begin, end)


async def carry_out(
    engine: ImageClassificationEngine, cores: int, files: list[bytes], load: tuple[int, float, float] | None
) -> Any:
    """As the replica does it: decoding in threads, beside the forwards."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(cores) as decoders, closing(ForwardExecutors(cores)) as forwards:
        batches: Batcher[Any, np.ndarray] = Batcher(
            lambda: forwards.policy(engine.classify, engine.at_once, engine.batch_size)
        )

        async def classify(file: bytes) -> np.ndarray:
            if engine.at_once > 1:
                return await batches.submit(file)
            return await batches.submit(await loop.run_in_executor(decoders, engine.preprocess, file))

        if load is None:
            return [engine.best(await classify(file), 1)[0][0] for file in files]
        return asdict(await measured(classify, files[0], *load))


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as cache:
        engine = ImageClassificationEngine.load(
            Path(sys.argv[1]), default_device(), cores=cores, cache=ArtifactCache(Path(cache), 1 << 30)
        )
        engine.settled.wait()

    def answer(order: dict[str, Any]) -> Any:
        files = [Path(picture).read_bytes() for picture in order["pictures"]]
        load = (order["connections"], order["lead_in_s"], order["seconds"]) if "connections" in order else None
        return asyncio.run(carry_out(engine, cores, files, load))

    obey(answer)


if __name__ == "__main__":
    main()
