"""`text`: a Llama of 6 M parameters, greedy, beside OpenVINO GenAI, `transformers serve --continuous-batching` and the
bare engine.

After it the time to the first token of streams, and a Llama of 134 M parameters beside what memory allows.
"""

import asyncio
import itertools
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
from safetensors.torch import load_file

from benchmarks.contest import Pace, Trial, compete
from benchmarks.engine_process import ENGINE, engine_process
from benchmarks.environment import FOLDER, OUR_BIN, PEER_BIN
from benchmarks.models import prompts, save_large_llama, save_llama
from benchmarks.report import US, Table
from benchmarks.servers import Server, running, settle
from benchmarks.text.genai import converted, openvino_genai
from serve_app.bench.loops import Measure, generate, median

PEERS = ("openvino-genai", "openai", "fastapi", "uvicorn")
MODEL_ID = "llama"
PROMPTS = prompts(256)
TOKENS = 64
# From 8 to 128 in an order that mixes short and long.
MIXED = tuple(8 + 8 * (step * 7 % 16) for step in range(16))
LONG_PROMPTS = [" ".join(PROMPTS[(n + 7 * part) % len(PROMPTS)] for part in range(12)) for n in range(len(PROMPTS))]
"""About 256 tokens, which differ from the first on too."""
_number = itertools.count()
CHECKED = 8
STREAMED = "16 streams, to the first token"
LARGE_ID = "llama-134m"
SLICES = 10
ENGINE_MODULE = "benchmarks.text.bare_engine"


@dataclass(frozen=True, slots=True)
class Point:
    """So many requests at a time, of these many tokens in turn."""

    name: str
    connections: int
    lengths: tuple[int, ...]
    long: bool = False

    @property
    def prompts(self) -> Iterator[str]:
        return new_prompts(self.long)


def new_prompts(long: bool = False) -> Iterator[str]:
    """Without end. None comes twice, at no point: a server that keeps much would have its keys and values still."""
    return (f"{next(_number)} {prompt}" for prompt in itertools.cycle(LONG_PROMPTS if long else PROMPTS))


POINTS = (
    Point("1 request", 1, (TOKENS,)),
    Point("8 requests", 8, (TOKENS,)),
    Point("16 requests", 16, (TOKENS,)),
    Point("16 requests of 8–128 tokens", 16, MIXED),
    Point("long prompts, 1 request", 1, (TOKENS,), long=True),
    Point("long prompts, 8 requests", 8, (TOKENS,), long=True),
    Point("long prompts, 16 requests", 16, (TOKENS,), long=True),
)


def run(pace: Pace, folder: Path) -> list[Table]:
    models = folder / "models"
    model, large = save_llama(models / MODEL_ID), save_large_llama(folder / LARGE_ID)
    texts: dict[str, list[str]] = {}
    servers = (ours(models), openvino_genai(converted(model, folder / "genai")), _transformers(model))
    trials = {server.name: trial_of(server, texts, pace) for server in servers}
    trials[ENGINE] = _engine_trial(model, texts, pace)
    done = compete(trials, pace.rounds)
    names = [point.name for point in POINTS]
    table = Table("Text generation", "tokens/s", [*names, STREAMED], list(trials), done.results)
    table.notes += [*done.notes, _agreement(texts), *done.failures]
    table.failed = bool(done.failures)
    table.notes.append(
        f"A Llama of 6 M parameters, random weights, no end of text; greedy; {TOKENS} tokens unless said otherwise. "
        "p50 and p99 are of whole answers, in the last row of first tokens. "
        "An error is an answer of another length than was asked for."
    )
    return [table, _large(large, pace)]


def _large(model: Path, pace: Pace) -> Table:
    """The engine alone at one request, beside reading the weights once a token.

    What memory gives varies within minutes, so both are measured in short slices in turn.
    """
    weights = sum(
        tensor.nbytes for name, tensor in load_file(model / "model.safetensors").items() if "embed_tokens" not in name
    )
    point = Point("1 request", 1, (TOKENS,))
    measures: list[Measure] = []
    with engine_process(ENGINE_MODULE, model) as tell:
        tell({"prompts": PROMPTS[:1], "tokens": TOKENS})
        tell(asdict(point) | {"lead_in_s": 0, "seconds": max(10, pace.lead_in_s)})
        settle(pace.settle_s)
        read = [tell({"bandwidth": True})]
        for _ in range(max(SLICES, pace.seconds)):
            measures.append(Measure(**tell(asdict(point) | {"lead_in_s": 0, "seconds": 1})))
            read.append(tell({"bandwidth": True}))
    # Each slice beside what memory gave right before and right after it.
    allowed = [(before + after) / 2 * 1e9 / weights for before, after in itertools.pairwise(read)]
    shares = sorted(measure.rate / most for measure, most in zip(measures, allowed, strict=True))
    results = {(point.name, ENGINE): [median(measures)]}
    table = Table("A Llama of 134 M parameters", "tokens/s", [point.name], [ENGINE], results)
    table.notes.append(
        f"In {len(measures)} slices of a second memory gives {min(read):.1f} to {max(read):.1f} GB/s; "
        f"{weights / 1e6:.0f} MB read once a token allow {statistics.median(allowed):.1f} tokens/s (median). "
        f"Each slice beside the reading around it: {statistics.median(shares):.0%} of that "
        f"(median; {shares[0]:.0%} to {shares[-1]:.0%})."
    )
    return table


def ours(repository: Path) -> Server:
    def body(asked: tuple[str, int]) -> dict[str, Any]:
        prompt, length = asked
        return {"TextGeneration": {"model_id": MODEL_ID, "prompt": prompt, "max_tokens": length}}

    def answer(reply: dict[str, Any]) -> tuple[str, int]:
        result = reply["TextGenerationResult"]
        return result["generated_text"], result["usage"]["completion_tokens"]

    command = (OUR_BIN / "model-runtime", "serve", "--models", repository, "--port", "{port}")
    return Server(US, command, "/infer", body, answer, {"PYTHONPATH": str(FOLDER.parent)})


def _transformers(model: Path) -> Server:
    def body(asked: tuple[str, int]) -> dict[str, Any]:
        prompt, length = asked
        return {"model": str(model), "prompt": prompt, "max_tokens": length, "temperature": 0}

    def answer(reply: dict[str, Any]) -> tuple[str, int]:
        return reply["choices"][0]["text"], reply["usage"]["completion_tokens"]

    options = ("--continuous-batching", "--host", "127.0.0.1", "--port", "{port}", "--log-level", "error")
    command = (PEER_BIN / "transformers", "serve", model, *options)
    return Server("transformers serve", command, "/v1/completions", body, answer)


def trial_of(server: Server, texts: dict[str, list[str]], pace: Pace, points: Sequence[Point] = POINTS) -> Trial:
    """Measures the points, then streams. `texts` is given what the server answers to the first prompts."""

    def trial() -> Mapping[str, Measure]:
        with running(server, (PROMPTS[0], 2)) as url:
            return asyncio.run(_measure(server, url, texts, pace, points))

    return trial


async def _measure(
    server: Server, url: str, texts: dict[str, list[str]], pace: Pace, points: Sequence[Point]
) -> Mapping[str, Measure]:
    async with aiohttp.ClientSession() as client:

        async def answered(prompt: str, length: int) -> tuple[str, int]:
            async with client.post(url, json=server.body((prompt, length))) as reply:
                if reply.status != 200:
                    return "", 0
                text, tokens = server.answer(await reply.json())
                return text, tokens

        async def ask(prompt: str, length: int) -> int:
            return (await answered(prompt, length))[1]

        texts[server.name] = [(await answered(prompt, TOKENS))[0] for prompt in PROMPTS[:CHECKED]]
        for point in points:
            await generate(ask, point.prompts, point.connections, point.lengths, 0, pace.lead_in_s)
        await asyncio.to_thread(settle, pace.settle_s)
        measures = {
            point.name: await generate(
                ask, point.prompts, point.connections, point.lengths, pace.lead_in_s, pace.seconds
            )
            for point in points
        }
        measures[STREAMED] = await _streams(client, url.removesuffix(server.path), server, pace)
        return measures


async def _streams(client: aiohttp.ClientSession, root: str, server: Server, pace: Pace) -> Measure:
    """As OpenAI streams; tokens a second, and the latencies of first tokens."""
    firsts: list[float] = []

    async def ask(prompt: str, length: int) -> int:
        begun = time.perf_counter()
        first = True
        body = {"model": server.body((prompt, length)).get("model", MODEL_ID), "prompt": prompt, "max_tokens": length}
        body |= {"temperature": 0, "stream": True}
        async with client.post(root + "/v1/completions", json=body) as reply:
            async for line in reply.content:
                if (
                    first
                    and line.startswith(b"data: {")
                    and any(c.get("text") for c in json.loads(line[6:])["choices"])
                ):
                    first = False
                    firsts.append((time.perf_counter() - begun) * 1e3)
        return 0 if first else length

    counted = await generate(ask, new_prompts(), 16, (TOKENS,), pace.lead_in_s, pace.seconds)
    firsts.sort()
    if not firsts:
        return Measure(0, math.nan, math.nan, counted.errors)
    return Measure(counted.rate, statistics.median(firsts), firsts[int(len(firsts) * 0.99)], counted.errors)


def _engine_trial(model: Path, texts: dict[str, list[str]], pace: Pace) -> Trial:
    def trial() -> Mapping[str, Measure]:
        with engine_process(ENGINE_MODULE, model) as tell:
            texts[ENGINE] = tell({"prompts": PROMPTS[:CHECKED], "tokens": TOKENS})
            for point in POINTS:
                tell(asdict(point) | {"lead_in_s": 0, "seconds": pace.lead_in_s})
            settle(pace.settle_s)
            times = {"lead_in_s": pace.lead_in_s, "seconds": pace.seconds}
            return {point.name: Measure(**tell(asdict(point) | times)) for point in POINTS}

    return trial


def _agreement(texts: Mapping[str, Sequence[str]]) -> str:
    rows = list(zip(*texts.values(), strict=True))
    same = sum(len(set(row)) == 1 for row in rows)
    told = "The same" if same == len(rows) else "**Not always the same**"
    return f"{told} greedy text from all {len(texts)}: {same} of {len(rows)} prompts, {TOKENS} tokens each."
