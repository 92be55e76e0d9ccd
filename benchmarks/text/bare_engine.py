"""The text engine alone, a program that `engine_process` starts."""

import asyncio
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine_process import obey
from benchmarks.text.text import new_prompts
from deployments.contract.chunk import Chunk
from deployments.contract.errors import ServingError
from deployments.contract.types import SamplingOptions
from deployments.engines.device import default_device, end_openmp_pool, use_threads
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.request import Event
from serve_app.bench.loops import generate


async def complete(engine: TextGenerationEngine, prompt: str, length: int) -> tuple[str, int]:
    """The text and how many tokens it has. Raises ServingError."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[tuple[str, int]] = loop.create_future()
    text: list[str] = []

    def emit(event: Event) -> None:  # called in the engine's thread
        match event:
            case Chunk(text=new):
                text.append(new)
            case ServingError() as error:
                loop.call_soon_threadsafe(ended.set_exception, error)
            case _:
                loop.call_soon_threadsafe(ended.set_result, ("".join(text), event.completion_tokens))

    engine.submit(prompt, length, SamplingOptions(), emit, stream=False)
    return await ended


def bandwidth_gb_s(size: int = 1 << 29, rounds: int = 5) -> float:
    """What the threads of one operation read from memory: the best of some rounds over more than any cache holds."""
    numbers = torch.ones(size // 4)
    best = 0.0
    for _ in range(rounds):
        begun = time.perf_counter()
        numbers.sum()
        best = max(best, size / (time.perf_counter() - begun) / 1e9)
    end_openmp_pool()
    return best


async def carry_out(engine: TextGenerationEngine, order: dict[str, Any]) -> Any:
    if "bandwidth" in order:
        return bandwidth_gb_s()
    if "prompts" in order:
        return [(await complete(engine, prompt, order["tokens"]))[0] for prompt in order["prompts"]]

    async def ask(prompt: str, length: int) -> int:
        return (await complete(engine, prompt, length))[1]

    load = (order["connections"], order["lengths"], order["lead_in_s"], order["seconds"])
    return asdict(await generate(ask, new_prompts(order["long"]), *load))


def main() -> None:
    use_threads(len(os.sched_getaffinity(0)))
    engine = TextGenerationEngine.load(Path(sys.argv[1]), default_device())
    obey(lambda order: asyncio.run(carry_out(engine, order)))
    engine.close()


if __name__ == "__main__":
    main()
