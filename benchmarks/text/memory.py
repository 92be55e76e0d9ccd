"""`python -m benchmarks.text.memory`: what the text replica holds (PSS), empty and after load with a model.

Allowed beyond what it holds empty: the weights, the key-value cache, and 128 MiB.
"""

import argparse
import asyncio
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families
from safetensors.torch import load_file
from transformers.utils.logging import disable_progress_bar

from benchmarks.idle import pss
from benchmarks.models import save_large_llama, save_llama
from benchmarks.servers import running, settle
from benchmarks.text.text import LONG_PROMPTS, MODEL_ID, PROMPTS, TOKENS, ours
from serve_app.bench.loops import generate
from serve_app.client import ModelRuntimeClient

MIB = 2**20
ALLOWED_MIB = 128
CONNECTIONS, SECONDS, SETTLE_S = 16, 15, 120
FIRST = "a-small-one"
"""Its folder is the first, so the sample of the start goes to it."""
BODY = {"prompt": PROMPTS[0], "max_tokens": 2}
MODELS: dict[str, Callable[[Path], Path]] = {"Llama, 6 M": save_llama, "Llama, 134 M": save_large_llama}


def replica() -> int:
    [pid] = [
        process.pid
        for process in psutil.Process().children(recursive=True)
        if re.match(r"ray::\w*Replica:.*:TextGeneration", " ".join(process.cmdline()))
    ]
    return int(pid)


def cache_mib(root: str) -> float:
    families = text_string_to_metric_families(httpx.get(f"{root}/metrics", timeout=10).text)
    samples = [sample for family in families for sample in family.samples if sample.name == "text_cache_bytes"]
    return sum(sample.value for sample in samples if sample.labels["model"] == MODEL_ID) / MIB


async def loaded(url: str) -> None:
    server = ours(Path())  # Runs already; this knows its form of a request.
    async with aiohttp.ClientSession() as client:

        async def ask(prompt: str, length: int) -> int:
            async with client.post(url, json=server.body((prompt, length))) as reply:
                return server.answer(await reply.json())[1]  # type: ignore[no-any-return]

        for prompts in (PROMPTS, LONG_PROMPTS):
            await generate(ask, prompts, CONNECTIONS, (TOKENS,), 0, SECONDS)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    disable_progress_bar()
    print("| MiB | empty | weights | cache | allowed | after the load | beyond the first three |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, save in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            models = Path(folder)
            save_llama(models / FIRST, layers=1, hidden=48, intermediate=64, heads=2)
            weights = sum(t.nbytes for t in load_file(save(models / MODEL_ID) / "model.safetensors").values()) / MIB
            server = replace(ours(models), body=lambda _: {"TextGeneration": BODY | {"model_id": FIRST}})
            with running(server, None) as url:
                root = url.removesuffix(server.path)
                with ModelRuntimeClient(root) as client:
                    client.unload(FIRST)
                settle(SETTLE_S)
                empty = pss(replica())
                asyncio.run(loaded(url))
                settle(SETTLE_S)
                asyncio.run(loaded(url))
                cache, held = cache_mib(root), pss(replica())
        known = empty + weights + cache
        figures = (empty, weights, cache, known + ALLOWED_MIB, held, held - known)
        print(f"| {name} | {' | '.join(f'{figure:,.0f}' for figure in figures)} |", flush=True)


if __name__ == "__main__":
    main()
